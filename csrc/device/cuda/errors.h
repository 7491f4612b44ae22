// What CUDA answers, as Errors.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "base/error.h"

namespace moestro::device::cuda {

// Says what was to be done, and what to do now where that is known. Memory that is not there is Error(budget), a driver
// or device that is missing Error(unsupported), anything else of `otherwise`.
Error error_of(cudaError_t code, const std::string& doing, ErrorKind otherwise = ErrorKind::internal);

inline void check(cudaError_t code, const char* doing, ErrorKind otherwise = ErrorKind::internal) {
    if (code == cudaSuccess) return;
    cudaGetLastError();  // or the next launch would be blamed
    throw error_of(code, doing, otherwise);
}

}  // namespace moestro::device::cuda
