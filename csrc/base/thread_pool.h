// CPU workers for data-parallel kernels. No globals: whoever computes owns one or is handed one.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <span>
#include <thread>
#include <type_traits>
#include <vector>

namespace moestro {

class ThreadPool {
  public:
    // `threads` >= 1 counts the caller: a pool of 1 starts no thread. Throws Error(usage) otherwise, and
    // Error(unsupported) when the system refuses that many.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int threads() const noexcept { return threads_; }

    // Calls body(item, worker) once for every item in [0, items), worker in [0, threads()), and returns when all are
    // done. Items are claimed one at a time, so uneven ones balance. The caller works too, and a single item runs on it
    // without waking anybody. Any thread may call; calls are served one after the other. The first exception stops
    // further claims and is rethrown here. Every participant runs with the default floating-point environment (MXCSR),
    // the caller's is restored. Never call it from a body. Allocates nothing.
    template <class Body>
    void parallel_for(std::int64_t items, Body&& body) {
        using Callable = std::remove_reference_t<Body>;
        run(
            {&items, 1},
            [](void* context, int, std::int64_t item, int worker) { (*static_cast<Callable*>(context))(item, worker); },
            const_cast<void*>(static_cast<const void*>(&body)));
    }

    // Several loops in one dispatch: body(phase, item, worker) for every item in [0, counts[phase]). An item begins
    // when every item of earlier phases has ended, and sees what those wrote. A thread that has not come yet is never
    // waited for. At most kMostPhases.
    template <class Body>
    void parallel_phases(std::initializer_list<std::int64_t> counts, Body&& body) {
        using Callable = std::remove_reference_t<Body>;
        run(
            {counts.begin(), counts.size()},
            [](void* context, int phase, std::int64_t item, int worker) {
                (*static_cast<Callable*>(context))(phase, item, worker);
            },
            const_cast<void*>(static_cast<const void*>(&body)));
    }
    static constexpr int kMostPhases = 8;

  private:
    struct State;
    using Thunk = void (*)(void* context, int phase, std::int64_t item, int worker);
    void run(std::span<const std::int64_t> counts, Thunk thunk, void* context);
    void stop();

    int threads_;
    std::unique_ptr<State> state_;
    std::vector<std::thread> workers_;
};

// Sets MXCSR to its default (round to nearest, no flush to zero) for a scope: kernels promise IEEE results whatever the
// caller had set.
class DefaultFloatEnvironment {
  public:
    DefaultFloatEnvironment();
    ~DefaultFloatEnvironment();
    DefaultFloatEnvironment(const DefaultFloatEnvironment&) = delete;
    DefaultFloatEnvironment& operator=(const DefaultFloatEnvironment&) = delete;

  private:
    unsigned saved_;
};

}  // namespace moestro
