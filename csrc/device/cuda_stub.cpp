// Of a build without CUDA.
#include "base/error.h"
#include "device/cuda.h"

namespace moestro::device {

namespace {

constexpr const char* kMissing =
    "this moestro was built without CUDA. Build it with: pip install . -C cmake.define.MOESTRO_CUDA=ON (nvcc of CUDA "
    "12 "
    "or newer must be on the PATH)";

}  // namespace

std::shared_ptr<Device> make_cuda(const CudaOptions&) {
    fail(ErrorKind::unsupported, kMissing);
}

CudaInfo cuda_info() noexcept {
    CudaInfo info;
    info.missing = kMissing;
    return info;
}

}  // namespace moestro::device
