// Least frequently used: gives up the expert with the fewest accepted uses so far, whether it was resident then or not;
// of equal ones the one used (or loaded, if later) longest ago.
#pragma once

#include <memory>

#include "policy/eviction.h"

namespace moestro::policy {

std::unique_ptr<Eviction> make_lfu(const EvictionSettings& settings);

}  // namespace moestro::policy
