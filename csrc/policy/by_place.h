// Planners that decide about each expert alone, by where its record is.
#pragma once

#include <memory>

#include "policy/planner.h"

namespace moestro::policy {

// The device computes everything, and is sent what it lacks.
std::unique_ptr<Planner> make_on_demand();
// Fiddler's split (ICLR 2025) as it is at a batch of one: the device computes what it has, the CPU everything else, and
// nothing crosses the link.
std::unique_ptr<Planner> make_static_split();
// The CPU computes whatever it can: everything but what the device alone has.
std::unique_ptr<Planner> make_cpu_only();

}  // namespace moestro::policy
