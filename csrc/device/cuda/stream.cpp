#include "device/cuda/stream.h"

#include <optional>

#include "device/cuda/errors.h"
#include "device/cuda/experts.h"

namespace moestro::device::cuda {

namespace {

class CudaStream final : public Stream {
  public:
    explicit CudaStream(std::shared_ptr<World> world) : world_(std::move(world)), courier_(*world_) {
        world_->enter();
        check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream");
        experts_.emplace(*world_, courier_, stream_);
    }
    ~CudaStream() override {
        finish();
        cudaStreamDestroy(stream_);
    }

    Event copy(std::byte* to, const std::byte* from, std::size_t bytes, Nanos) override {
        world_->enter();
        world_->require_inside(to, bytes);
        world_->require_inside(from, bytes);
        const auto done = begin(ErrorKind::io);
        if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "copy", ErrorKind::io);
        return end(done);
    }

    Event experts(const ExpertsLaunch& launch, Nanos) override {
        world_->enter();
        const auto done = begin(ErrorKind::internal);
        constexpr std::uint32_t kNoFault = 0;
        const Courier::Sent fault = courier_.put(&kNoFault, sizeof kNoFault, stream_);
        require(fault.device, ErrorKind::budget, world_->name, " has no room left for launches");
        experts_->run(launch, reinterpret_cast<std::uint32_t*>(fault.device));
        check(cudaMemcpyAsync(fault.host, fault.device, sizeof kNoFault, cudaMemcpyDefault, stream_), "read a fault");
        done->fault = reinterpret_cast<const std::uint32_t*>(fault.host);
        return end(done);
    }

    void wait(const Event& event) override {
        if (!event.state()) return;
        for (const Event& part : event.state()->parts()) wait(part);
        if (!event.state()->parts().empty()) return;
        const auto* const done = dynamic_cast<const Done*>(event.state().get());
        if (!done) return event.state()->wait();  // of another device
        if (!done->event()) return;
        world_->enter();
        check(cudaStreamWaitEvent(stream_, done->event(), 0), "make a stream wait");
    }

    void finish() override {
        cudaSetDevice(world_->options.ordinal);
        cudaStreamSynchronize(stream_);
        cudaGetLastError();  // its operations' events know
        if (last_) last_->wait();
        world_->look();
    }

  private:
    std::shared_ptr<Done> begin(ErrorKind kind) {
        auto done = std::make_shared<Done>(world_);
        done->kind = kind;
        return done;
    }
    Event end(const std::shared_ptr<Done>& done) {
        courier_.close(done);
        check(cudaEventRecord(done->event(), stream_), "record an event");
        world_->add(done);
        last_ = done;
        return Event(done);
    }

    const std::shared_ptr<World> world_;
    Courier courier_;
    cudaStream_t stream_ = nullptr;
    std::optional<Experts> experts_;
    std::shared_ptr<Done> last_;
};

}  // namespace

std::unique_ptr<Stream> make_stream(std::shared_ptr<World> world) {
    return std::make_unique<CudaStream>(std::move(world));
}

}  // namespace moestro::device::cuda
