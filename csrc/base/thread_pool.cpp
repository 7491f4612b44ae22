// A job is published under a mutex with a new generation number; workers spin on the generation for a moment, then
// park. Items are claimed from one atomic counter. The caller waits until every worker has left the job, so a job's
// state may live on its stack.
#include "base/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>

#include <atomic>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace moestro {

namespace {
constexpr int kSpins = 2000;  // about 20-60 us of pauses: longer than the gap between two kernels of one layer
constexpr unsigned kDefaultMxcsr = 0x1f80;
}  // namespace

DefaultFloatEnvironment::DefaultFloatEnvironment() : saved_(_mm_getcsr()) {
    _mm_setcsr(kDefaultMxcsr);
}
DefaultFloatEnvironment::~DefaultFloatEnvironment() {
    _mm_setcsr(saved_);
}

struct ThreadPool::State {
    std::mutex callers;  // one parallel_for at a time

    std::mutex mutex;  // guards the job below and both condition variables
    std::condition_variable wake;
    std::condition_variable done;
    Thunk thunk = nullptr;
    void* context = nullptr;
    std::int64_t items = 0;
    std::exception_ptr error;

    std::atomic<std::uint64_t> generation{0};
    std::atomic<std::int64_t> next{0};
    std::atomic<int> busy{0};
    std::atomic<bool> stop{false};

    void work(int worker) {
        DefaultFloatEnvironment environment;
        try {
            for (std::int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < items;)
                thunk(context, item, worker);
        } catch (...) {
            next.store(items, std::memory_order_relaxed);
            std::lock_guard lock(mutex);
            if (!error) error = std::current_exception();
        }
    }

    void serve(int worker) {
        std::uint64_t seen = 0;
        for (;;) {
            for (int spin = 0; spin < kSpins && generation.load(std::memory_order_acquire) == seen; ++spin) _mm_pause();
            if (generation.load(std::memory_order_acquire) == seen) {
                std::unique_lock lock(mutex);
                wake.wait(lock, [&] { return stop || generation.load(std::memory_order_acquire) != seen; });
            }
            if (stop) return;
            seen = generation.load(std::memory_order_acquire);
            work(worker);
            if (busy.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                std::lock_guard lock(mutex);
                done.notify_one();
            }
        }
    }
};

ThreadPool::ThreadPool(int threads) : threads_(threads), state_(std::make_unique<State>()) {
    require(threads >= 1, ErrorKind::usage, "threads must be at least 1, got ", threads);
    workers_.reserve(static_cast<std::size_t>(threads - 1));
    try {
        for (int worker = 1; worker < threads; ++worker) {
            workers_.emplace_back([state = state_.get(), worker] { state->serve(worker); });
            ::pthread_setname_np(workers_.back().native_handle(), "moestro-cpu");
        }
    } catch (const std::system_error& error) {
        stop();
        fail(ErrorKind::unsupported, "the system refused thread ", workers_.size() + 2, " of ", threads,
             " for computing (", error.what(), "): choose fewer threads");
    }
}

ThreadPool::~ThreadPool() {
    stop();
}

void ThreadPool::stop() {
    {
        std::lock_guard lock(state_->mutex);
        state_->stop = true;
        state_->generation.fetch_add(1, std::memory_order_release);
    }
    state_->wake.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::int64_t items, Thunk thunk, void* context) {
    if (items <= 0) return;
    State& state = *state_;
    std::lock_guard serial(state.callers);
    {
        std::lock_guard lock(state.mutex);
        state.thunk = thunk;
        state.context = context;
        state.items = items;
        state.error = nullptr;
        state.next.store(0, std::memory_order_relaxed);
        const bool wake_workers = items > 1 && threads_ > 1;
        state.busy.store(wake_workers ? threads_ - 1 : 0, std::memory_order_relaxed);
        if (wake_workers) state.generation.fetch_add(1, std::memory_order_release);
    }
    if (state.busy.load(std::memory_order_relaxed) > 0) state.wake.notify_all();
    state.work(0);
    for (int spin = 0; spin < kSpins && state.busy.load(std::memory_order_acquire) > 0; ++spin) _mm_pause();
    {
        std::unique_lock lock(state.mutex);
        state.done.wait(lock, [&] { return state.busy.load(std::memory_order_acquire) == 0; });
        if (state.error) std::rethrow_exception(std::exchange(state.error, nullptr));
    }
}

}  // namespace moestro
