// What running layers came to, since the beginning.
#pragma once

#include <cstdint>

#include "base/clock.h"

namespace moestro::exec {

struct RunCounters {
    // Per distinct expert of a submit, by where its record was then: complete where it was computed, absent there, on
    // its way there.
    std::uint64_t hits = 0, misses = 0, joined = 0;
    std::uint64_t on_device = 0;  // of all of them, computed there
    Nanos compute_ns = 0;         // in kernels of the processor
    Nanos device_ns = 0;          // with something launched that is not over
    Nanos stall_ns = 0;           // waiting with nothing to compute
    Nanos queued_ns = 0;          // of all experts: in memory, waiting for the threads
};

}  // namespace moestro::exec
