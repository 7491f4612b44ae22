// A device that needs none: its memory is host memory, its kernels are the processor's, its time is virtual. It is
// stricter than hardware. Memory that was not written, and the destination of a copy that is under way, hold 0xFF (not
// a number, in every format); what is under way may be neither overwritten nor given back.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "base/virtual_lanes.h"
#include "device/device.h"
#include "kernels/compute.h"
#include "policy/layer_plan.h"

namespace moestro::device {

struct EmulatedOptions {
    std::size_t memory = 0;  // bytes
    // What goes wrong, for tests. The n-th, counted from 1; 0: none.
    int failed_allocation = 0;  // and all after it
    int failed_copy = 0;
    bool no_pinning = false;
    bool weightless = false;  // for simulations: memory is addresses alone, and work does nothing but take time
};

// Copies to and from the device run on Lane::link, one after the other, and computations on Lane::device. `compute` may
// be null for a weightless one. Wrong use throws Error(internal): at once, or, where a buffer was given back too early,
// with the next call.
std::shared_ptr<Device> make_emulated(const EmulatedOptions& options, std::shared_ptr<VirtualLanes> lanes,
                                      std::shared_ptr<kernels::Compute> compute);

}  // namespace moestro::device
