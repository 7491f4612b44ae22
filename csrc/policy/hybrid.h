// HybriMoE's schedule (2504.05897) with a lane for the SSD, and then a search for a better one: single experts change
// sides, pairs change places, for as long as the layer gets shorter and a fixed effort lasts. Without a device it reads
// while it computes what is in memory, and then what arrives.
#pragma once

#include <memory>

#include "policy/planner.h"

namespace moestro::policy {

std::unique_ptr<Planner> make_hybrid();

}  // namespace moestro::policy
