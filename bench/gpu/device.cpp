#include "device.h"

#include <cstring>

namespace moestro::bench {

namespace {

constexpr std::size_t kPiece = 4 << 20, kAlignment = 256;

}  // namespace

const void* Courier::send(const void* data, std::size_t bytes, kernels::cuda::Stream) {
    const std::size_t size = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (kept_.empty() || used_ + size > kept_.back().size()) {
        kept_.emplace_back(std::max(size, kPiece));
        used_ = 0;
    }
    std::byte* const to = kept_.back().data() + used_;
    used_ += size;
    check(cudaMemcpyAsync(to, data, bytes, cudaMemcpyDefault, beside_.get()), "send a launch's arguments");
    beside_.wait();
    return to;
}

Device open_device() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess || count == 0)
        throw std::runtime_error(std::string("this bench needs a CUDA device: ") +
                                 (status == cudaSuccess ? "the driver shows none" : cudaGetErrorString(status)));
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, 0), "look at the device");
    check(cudaSetDevice(0), "take the device");
    return {properties.name, properties.major, properties.minor, properties.multiProcessorCount, free_memory()};
}

std::size_t free_memory() {
    std::size_t free = 0, total = 0;
    check(cudaMemGetInfo(&free, &total), "look at the device's memory");
    return free;
}

Events::Events() {
    check(cudaEventCreateWithFlags(&begun_, cudaEventDefault), "make an event");
    check(cudaEventCreateWithFlags(&ended_, cudaEventDefault), "make an event");
}
Events::~Events() {
    cudaEventDestroy(begun_);
    cudaEventDestroy(ended_);
}
double Events::end(const Stream& stream) {
    check(cudaEventRecord(ended_, stream.get()), "record an event");
    check(cudaEventSynchronize(ended_), "run kernels");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begun_, ended_), "read a time");
    return milliseconds / 1e3;
}

}  // namespace moestro::bench
