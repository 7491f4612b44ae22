#include "base/error.h"
#include "device/cuda.h"
#include "device/cuda/accelerator.h"
#include "device/cuda/errors.h"
#include "device/cuda/info.h"
#include "device/cuda/stream.h"
#include "device/cuda/world.h"

namespace moestro::device {

namespace {

class Cuda final : public Device {
  public:
    explicit Cuda(std::shared_ptr<cuda::World> world) : world_(std::move(world)) {}

    std::string_view name() const override { return world_->name; }
    std::size_t memory() const override { return world_->options.memory; }
    std::size_t allocated() const override { return world_->memory.taken(); }
    std::size_t peak() const override { return world_->memory.peak(); }

    Buffer allocate(std::size_t bytes) override { return world_->allocate(bytes); }
    Buffer allocate_host(std::size_t bytes) override { return world_->allocate_host(bytes); }
    bool pin(std::byte* data, std::size_t bytes) override { return world_->pin(data, bytes); }
    void unpin(std::byte* data) noexcept override { world_->unpin(data); }
    std::unique_ptr<Stream> make_stream() override { return cuda::make_stream(world_); }
    std::shared_ptr<kernels::Accelerator> make_accelerator() override { return cuda::make_accelerator(world_); }
    bool wait_any() override { return world_->wait_any(); }

  private:
    const std::shared_ptr<cuda::World> world_;
};

}  // namespace

std::shared_ptr<Device> make_cuda(const CudaOptions& options) {
    std::string missing = cuda::missing_at_all();
    require(missing.empty(), ErrorKind::unsupported, missing);
    int count = 0;
    cuda::check(cudaGetDeviceCount(&count), "count devices");
    require(0 <= options.ordinal && options.ordinal < count, ErrorKind::unsupported,
            "there is no device cuda:", options.ordinal, ": there ",
            count == 1 ? "is one, cuda:0" : text("are ", count, ", from cuda:0 on"));
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, options.ordinal), "describe a device", ErrorKind::unsupported);
    missing = cuda::missing_of(properties);
    require(missing.empty(), ErrorKind::unsupported, missing);
    return std::make_shared<Cuda>(std::make_shared<cuda::World>(options));
}

}  // namespace moestro::device
