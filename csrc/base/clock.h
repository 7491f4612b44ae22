// Time is an argument: production passes SteadyClock, tests and the simulator pass VirtualClock.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace moestro {

using Nanos = std::int64_t;

class Clock {
  public:
    virtual ~Clock() = default;
    virtual Nanos now() const = 0;
};

class SteadyClock final : public Clock {
  public:
    Nanos now() const override {
        return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
            .count();
    }
};

// Read by any thread, turned by one.
class VirtualClock final : public Clock {
  public:
    Nanos now() const override { return now_.load(std::memory_order_relaxed); }
    void advance(Nanos by) { now_.fetch_add(by, std::memory_order_relaxed); }

  private:
    std::atomic<Nanos> now_ = 0;
};

}  // namespace moestro
