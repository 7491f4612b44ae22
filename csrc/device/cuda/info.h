#pragma once

#include <cuda_runtime_api.h>

#include <string>

namespace moestro::device::cuda {

// Why no device can be used, or this one cannot, in a sentence; empty: nothing is in the way.
std::string missing_at_all();
std::string missing_of(const cudaDeviceProp& device);

}  // namespace moestro::device::cuda
