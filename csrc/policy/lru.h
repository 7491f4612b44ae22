// Least recently used: gives up the expert whose last accepted use (or load, if later) is longest ago.
#pragma once

#include <memory>

#include "policy/eviction.h"

namespace moestro::policy {

std::unique_ptr<Eviction> make_lru(const EvictionSettings& settings);

}  // namespace moestro::policy
