// Small arrays of the host on their way to the device: written into pinned memory, copied from there, and both used
// again when what they were sent for is over.
#pragma once

#include <deque>

#include "device/cuda/world.h"
#include "kernels/cuda/launch.h"

namespace moestro::device::cuda {

// Of one stream.
class Courier final : public kernels::cuda::Courier {
  public:
    explicit Courier(World& world) : world_(world) {}
    ~Courier() override;
    Courier(const Courier&) = delete;
    Courier& operator=(const Courier&) = delete;

    struct Sent {
        std::byte *host = nullptr, *device = nullptr;  // null: there is no room
    };
    Sent put(const void* data, std::size_t bytes, cudaStream_t stream);
    const void* send(const void* data, std::size_t bytes, kernels::cuda::Stream stream) override {
        return put(data, bytes, stream).device;
    }

    // What is sent from now on goes to memory of its own, at once and for good, and `kept` keeps it: for work that is
    // recorded and done again. Null: no more.
    void keep(std::vector<Buffer>* kept) { kept_ = kept; }
    // What was sent since the last time belongs to this operation.
    void close(const std::shared_ptr<Done>& done);

  private:
    struct Ring {
        Buffer host, device;
        std::size_t size() const { return device.size(); }
    };
    struct Part {
        std::shared_ptr<Done> done;
        std::size_t end = 0;
    };
    Sent put_for_good(const void* data, std::size_t bytes);
    bool find_room(std::size_t bytes);
    bool grow(std::size_t bytes);

    World& world_;
    std::vector<Buffer>* kept_ = nullptr;
    cudaStream_t side_ = nullptr;  // of what is kept
    std::shared_ptr<Ring> ring_;
    // Bytes since the ring was made: what is between tail and head is in use, up to `closed` by operations that are
    // known.
    std::size_t head_ = 0, tail_ = 0, closed_ = 0;
    std::deque<Part> parts_;                       // of operations that may be under way, in order
    std::vector<std::shared_ptr<void>> outgrown_;  // rings that the operation which is being put together has used
};

}  // namespace moestro::device::cuda
