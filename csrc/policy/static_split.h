// Fiddler's split (ICLR 2025) as it is at a batch of one: the device computes what it has, the CPU everything else, and
// nothing crosses the link.
#pragma once

#include <memory>

#include "policy/planner.h"

namespace moestro::policy {

std::unique_ptr<Planner> make_static_split();

}  // namespace moestro::policy
