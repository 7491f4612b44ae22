// What a device and its link take for an expert, measured: a planner must know before it plans the first layer.
#pragma once

#include <cstddef>

#include "base/clock.h"
#include "device/device.h"
#include "policy/lane_costs.h"
#include "store/catalog.h"

namespace moestro::exec {

// `costs` with the device's line and the link's time, of experts like those of `layer`. Takes a few milliseconds, and
// a record and some rows of the device's memory meanwhile. Throws Error(budget).
policy::LaneCosts with_device(policy::LaneCosts costs, device::Device& device, const store::ExpertLayer& layer,
                              std::size_t record_bytes, const Clock& clock);

}  // namespace moestro::exec
