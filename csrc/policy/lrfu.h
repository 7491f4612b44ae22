// LRFU (Lee et al., SIGMETRICS 1999; IEEE ToC 2001): the expert of the smallest sum of its uses goes, each counting the
// less the more tokens it is ago. Between LFU, which never forgets what a prompt was about, and LRU, which knows one
// use only. Counting in tokens and a half-life of 22 of them are ours, from traces of the demo model
// (docs/policies.md).
#pragma once

#include <memory>

#include "policy/eviction.h"

namespace moestro::policy {

inline constexpr double kForgotten = 1.0 / 32;  // of what uses count, by a token

std::unique_ptr<Eviction> make_lrfu(const EvictionSettings& settings);

}  // namespace moestro::policy
