#include "device/cuda/errors.h"

namespace moestro::device::cuda {

namespace {

ErrorKind kind_of(cudaError_t code, ErrorKind otherwise) {
    switch (code) {
        case cudaErrorMemoryAllocation:
            return ErrorKind::budget;
        case cudaErrorInsufficientDriver:
        case cudaErrorNoDevice:
        case cudaErrorInvalidDevice:
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorSystemDriverMismatch:
            return ErrorKind::unsupported;
        default:
            return otherwise;
    }
}

}  // namespace

Error error_of(cudaError_t code, const std::string& doing, ErrorKind otherwise) {
    std::string what =
        text("CUDA could not ", doing, ": ", cudaGetErrorString(code), " (", cudaGetErrorName(code), ")");
    // Some failures are the last thing that a process hears from a device.
    if (cudaFree(nullptr) == code) what += ". Nothing works on this device any more until the process is started again";
    return {kind_of(code, otherwise), what};
}

}  // namespace moestro::device::cuda
