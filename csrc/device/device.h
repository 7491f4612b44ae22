// What an accelerator must do: memory of its own, pinned host memory, and streams of copies and expert computations
// that run beside the processor. device/emulated.h is one that needs no hardware.
//
// Ordering. What one stream is given runs in the order in which it was given; between streams, and between a stream
// and the processor, nothing is ordered but by events: Stream::wait makes later work of a stream follow an event,
// Event::wait makes the caller. Until its event is over, an operation's source must not change and its destination
// holds anything.
//
// Failure. What can be told at once (no memory, a range outside its buffer) is thrown by the call. What fails later is
// kept in the operation's event: Event::wait and Event::check throw it, and its destination holds anything. Nothing
// else fails with it: whoever needs the result asks its event.
//
// Destruction. A stream waits for its work. Buffers must not be in use by work under way when they go. Buffers, streams
// and events keep what they need of their device alive.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"

namespace moestro::device {

// Memory that somebody must give back.
class Memory {
  public:
    virtual ~Memory() = default;
    virtual void give_back(std::byte* data) noexcept = 0;
};

// Owning and movable.
class Buffer {
  public:
    Buffer() = default;
    Buffer(std::shared_ptr<Memory> owner, std::byte* data, std::size_t size, bool pinned = false)
        : owner_(std::move(owner)), data_(data), size_(size), pinned_(pinned) {}
    ~Buffer() {
        if (owner_) owner_->give_back(data_);
    }
    Buffer(Buffer&& other) noexcept
        : owner_(std::move(other.owner_)),
          data_(std::exchange(other.data_, nullptr)),
          size_(std::exchange(other.size_, 0)),
          pinned_(other.pinned_) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(owner_, other.owner_);
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        std::swap(pinned_, other.pinned_);
        return *this;
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }
    bool pinned() const { return pinned_; }  // of host memory: the device reaches it, and copies run at full speed

  private:
    std::shared_ptr<Memory> owner_;
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    bool pinned_ = false;
};

// The end of an operation. One that was never given anything is over.
class Event {
  public:
    class State {
      public:
        virtual ~State() = default;
        virtual bool over() = 0;
        virtual void wait() = 0;   // until over()
        virtual void check() = 0;  // throws what the operation failed with; REQUIRES over()
        virtual std::span<const Event> parts() const { return {}; }  // of all()
    };

    Event() = default;
    explicit Event(std::shared_ptr<State> state) : state_(std::move(state)) {}

    bool over() const { return !state_ || state_->over(); }
    // Throw what the operation failed with.
    void wait() const {
        if (!state_) return;
        state_->wait();
        state_->check();
    }
    void check() const {  // REQUIRES over()
        if (state_) state_->check();
    }
    const std::shared_ptr<State>& state() const { return state_; }

  private:
    std::shared_ptr<State> state_;
};

// Over when all of them are.
Event all(std::vector<Event> events);

class Device;
// A buffer of the device with a copy of these bytes, when it returns. Throws Error(budget).
Buffer upload(Device& device, std::span<const std::byte> bytes);

// Experts of one layer over rows of one batch: as kernels::experts, with the same bits.
struct ExpertsLaunch {
    std::span<const kernels::ExpertJob> jobs;  // copied, rows too; records in device memory, y as x
    const float* x = nullptr;                  // [rows, hidden], in device memory or pinned host memory
    int rows = 0, hidden = 0;
    bool integer = false;  // some weights are of a format that quantises activations
};

// One thread at a time.
class Stream {
  public:
    virtual ~Stream() = default;
    // takes: nanoseconds, where time is virtual. A device of its own takes what it takes.
    virtual Event copy(std::byte* to, const std::byte* from, std::size_t bytes, Nanos takes) = 0;
    virtual Event experts(const ExpertsLaunch& launch, Nanos takes) = 0;
    virtual void wait(const Event& event) = 0;
    virtual void finish() = 0;  // waits for all of its work; throws nothing of its failures
};

// One thread at a time, streams included.
class Device {
  public:
    virtual ~Device() = default;
    virtual std::string_view name() const = 0;
    virtual std::size_t memory() const = 0;     // bytes, of all buffers together
    virtual std::size_t allocated() const = 0;  // now
    virtual std::size_t peak() const = 0;

    // Throws Error(budget) naming what was asked for and what is free.
    virtual Buffer allocate(std::size_t bytes) = 0;
    // Host memory; pinned where the system allows it, else pageable: buffer.pinned() says which.
    virtual Buffer allocate_host(std::size_t bytes) = 0;
    virtual std::unique_ptr<Stream> make_stream() = 0;
    // Pins memory of the host that exists already, whole pages of it, until unpin(): copies then run at full speed.
    // False where the system refuses, or pinning means nothing.
    virtual bool pin(std::byte* data, std::size_t bytes) = 0;
    virtual void unpin(std::byte* data) noexcept = 0;
    // All operations of a decoder step, on a stream of their own. Throws Error(unsupported) where there are none.
    virtual std::shared_ptr<kernels::Accelerator> make_accelerator() = 0;
    // Blocks until something that is under way has ended. False where nothing is.
    virtual bool wait_any() = 0;
};

}  // namespace moestro::device
