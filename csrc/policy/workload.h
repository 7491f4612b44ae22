// DALI's workload-aware cache (2602.03495): every layer has a set of experts that stay. Tokens are counted over a
// window; at its end the hottest experts outside the set change places with the coldest inside, a few at a time, so
// that a burst cannot turn the cache over. Others come and go in what room is left, least recently used first.
//
// The paper's window and number of swaps were not in the digests this is made from; these are ours.
#pragma once

#include <memory>

#include "policy/eviction.h"

namespace moestro::policy {

inline constexpr int kWorkloadWindow = 16;  // accepted tokens
inline constexpr int kWorkloadSwaps = 2;    // of a layer, at the end of a window

std::unique_ptr<Eviction> make_workload(const EvictionSettings& settings);

}  // namespace moestro::policy
