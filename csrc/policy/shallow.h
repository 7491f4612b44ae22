// Fate's shallow-favouring cache (2502.12224): the first layers, whose routing is hardest to foresee, stay resident
// whole; what is left is shared out equally between the deeper ones, each of which has an ARC of its own.
#pragma once

#include <memory>
#include <vector>

#include "policy/eviction.h"

namespace moestro::policy {

inline constexpr int kShallowLayers = 4;  // Fate's code has it for every model; its profile says 3 to 4

// Records each layer may have, given how many may be resident. Where there is not even room for the first layers whole,
// they are filled in order and the others get nothing.
std::vector<int> shallow_quotas(const ExpertSet& experts, int records);

std::unique_ptr<Eviction> make_shallow(const EvictionSettings& settings);

}  // namespace moestro::policy
