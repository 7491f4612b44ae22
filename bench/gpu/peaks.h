// What the device can do at best, measured in the same run as what the kernels do.
#pragma once

#include "device.h"
#include "results.h"

namespace moestro::bench {

// megabytes: many times what a cache holds; reads pass over four times as many.
Limits measure_peaks(const Device& device, const Stream& stream, std::size_t megabytes, const Results& results);

}  // namespace moestro::bench
