// What runtimes without a planner do: what the device lacks is sent there when it is wanted, and the CPU computes
// nothing. Where there is no device, the CPU computes everything.
#pragma once

#include <memory>

#include "policy/planner.h"

namespace moestro::policy {

std::unique_ptr<Planner> make_on_demand();

}  // namespace moestro::policy
