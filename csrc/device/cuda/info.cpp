#include "device/cuda/info.h"

#include <cstdlib>

#include "base/error.h"
#include "device/cuda.h"

namespace moestro::device {

namespace cuda {

namespace {

constexpr int kOldest = 75;  // compute capability: Turing is the first with products of bytes by whole warps

std::string version_text(int version) {
    return text(version / 1000, ".", version % 1000 / 10);
}

// The first driver of a CUDA's major version; all later ones run it.
std::string needed_driver(int runtime) {
    const int major = runtime / 1000;
    const std::string cuda = text("CUDA ", version_text(runtime));
    if (major == 12) return "driver 525 or newer, for " + cuda;
    if (major == 13) return "driver 580 or newer, for " + cuda;
    return "a driver for " + cuda;
}

}  // namespace

std::string missing_at_all() {
    int driver = 0, runtime = 0, count = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) cudaGetLastError();
    if (driver == 0) return text("no NVIDIA driver is installed: this moestro needs ", needed_driver(runtime));
    if (status == cudaErrorInsufficientDriver)
        return text("the NVIDIA driver is too old: it is for CUDA ", version_text(driver), ", this moestro needs ",
                    needed_driver(runtime));
    if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
        const char* const visible = std::getenv("CUDA_VISIBLE_DEVICES");
        return visible ? text("no NVIDIA GPU can be seen: CUDA_VISIBLE_DEVICES is '", visible, "'")
                       : "no NVIDIA GPU was found";
    }
    if (status != cudaSuccess)
        return text("CUDA does not start: ", cudaGetErrorString(status), " (", cudaGetErrorName(status), ")");
    return {};
}

std::string missing_of(const cudaDeviceProp& device) {
    if (10 * device.major + device.minor >= kOldest) return {};
    return text(device.name, " has compute capability ", device.major, ".", device.minor, ": moestro needs ",
                kOldest / 10, ".", kOldest % 10, " (Turing) or newer");
}

}  // namespace cuda

namespace {

CudaDevice describe(int ordinal) {
    CudaDevice made;
    cudaDeviceProp device{};
    cudaError_t status = cudaGetDeviceProperties(&device, ordinal);
    if (status == cudaSuccess) {
        made.name = device.name;
        made.major = device.major;
        made.minor = device.minor;
        made.multiprocessors = device.multiProcessorCount;
        made.integrated = device.integrated != 0;
        made.total = device.totalGlobalMem;
        made.missing = cuda::missing_of(device);
        char bus[32] = {};
        if (cudaDeviceGetPCIBusId(bus, sizeof bus, ordinal) == cudaSuccess) made.bus = bus;
        status = cudaSetDevice(ordinal);
        if (status == cudaSuccess) status = cudaMemGetInfo(&made.free, &made.total);
    }
    if (status != cudaSuccess && made.missing.empty())
        made.missing = text("CUDA cannot use device ", ordinal, ": ", cudaGetErrorString(status), " (",
                            cudaGetErrorName(status), ")");
    cudaGetLastError();
    return made;
}

}  // namespace

CudaInfo cuda_info() noexcept {
    CudaInfo info;
    info.built = true;
    try {
        cudaDriverGetVersion(&info.driver);
        cudaRuntimeGetVersion(&info.runtime);
        info.missing = cuda::missing_at_all();
        if (!info.missing.empty()) return info;
        int before = 0, count = 0;
        cudaGetDevice(&before);
        cudaGetDeviceCount(&count);
        for (int ordinal = 0; ordinal < count; ++ordinal) info.devices.push_back(describe(ordinal));
        cudaSetDevice(before);
        bool usable = false;
        for (const CudaDevice& device : info.devices) usable = usable || device.missing.empty();
        if (!usable) info.missing = info.devices.front().missing;
    } catch (const std::exception& error) {
        info.missing = error.what();
    }
    return info;
}

}  // namespace moestro::device
