// What a CUDA device, its streams and its buffers share: memory, events, and what is under way.
#pragma once

#include <cuda_runtime_api.h>

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/cuda.h"
#include "device/cuda/arena.h"
#include "device/device.h"

namespace moestro::device::cuda {

class World;

// The end of an operation of a stream.
class Done final : public Event::State {
  public:
    explicit Done(std::shared_ptr<World> world);  // takes an event, to be recorded
    ~Done() override;

    bool over() override;
    void wait() override;
    void check() override;

    cudaEvent_t event() const { return event_; }  // null when it is over
    World* world() const { return world_.get(); }

    const std::uint32_t* fault = nullptr;      // where the host finds what its kernels left, in memory that it keeps
    std::vector<std::shared_ptr<void>> keeps;  // until it is over
    ErrorKind kind = ErrorKind::internal;      // of what CUDA says of it

  private:
    void settle(cudaError_t status);

    const std::shared_ptr<World> world_;
    cudaEvent_t event_ = nullptr;
    std::optional<Error> error_;
};

class World final : public Memory, public std::enable_shared_from_this<World> {
  public:
    explicit World(const CudaOptions& options);
    ~World() override;

    // Before anything is asked of CUDA: which device is meant is a matter of the thread.
    void enter() const;

    Buffer allocate(std::size_t bytes);       // throws Error(budget)
    Buffer allocate_work(std::size_t bytes);  // for our own needs; null where there is no room
    Buffer allocate_host(std::size_t bytes);
    void give_back(std::byte* data) noexcept override;
    bool pin(std::byte* data, std::size_t bytes);
    void unpin(std::byte* data) noexcept;

    // Throws where a range is in no memory of one buffer, as far as we know its memory.
    void require_inside(const void* data, std::size_t bytes) const;
    bool on_device(const void* data) const;
    bool reaches(const void* host) const;  // of allocate_host(): the device reads and writes it too

    cudaEvent_t take_event();
    void give_event(cudaEvent_t event) noexcept;
    void add(std::shared_ptr<Done> done);  // it is kept until it is over
    bool look();                           // forgets what is over; false: nothing was
    bool wait_any();

    const CudaOptions options;
    std::string name;
    Arena memory, work;

  private:
    struct HostBlock {
        const std::byte* begin = nullptr;
        std::size_t bytes = 0;
        bool pinned = false;
    };
    const HostBlock* host_block(const std::byte* at) const;  // where it lies, or null

    std::map<const std::byte*, HostBlock> host_;
    std::vector<cudaEvent_t> events_;              // that nobody uses
    std::deque<std::shared_ptr<Done>> under_way_;  // in the order in which they were given
};

}  // namespace moestro::device::cuda
