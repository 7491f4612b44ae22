// A job lives behind a door: one atomic word with the job's number, whether it is open, and how many workers are
// inside. The caller opens it, works, closes it when nothing is left to claim, and waits for the workers inside; one
// that was late (parked, or its core busy with something else) finds it closed and is never waited for. So a job's
// state may live on the caller's stack, and a neighbour on one core costs its share and no more.
//
// Items of all phases are numbered through and claimed from one counter. Whoever claims an item of a later phase waits
// until the items before its phase are done: they were all claimed before, by threads that are inside and running.
#include "base/thread_pool.h"

#include <immintrin.h>
#include <pthread.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <system_error>
#include <utility>

#include "base/error.h"

namespace moestro {

namespace {

constexpr int kSpins = 2000;  // about 20-60 us of pauses: longer than the gap between two kernels of one layer
constexpr unsigned kDefaultMxcsr = 0x1f80;

// The door's word.
constexpr std::uint64_t kInside = (std::uint64_t{1} << 31) - 1;  // number of workers
constexpr std::uint64_t kOpen = std::uint64_t{1} << 31;
constexpr std::uint64_t job_of(std::uint64_t door) {
    return door >> 32;
}

// True as soon as `ready()` is; false after a moment without.
template <class Ready>
bool spin_until(const Ready& ready) {
    for (int spin = 0; spin < kSpins; ++spin) {
        if (ready()) return true;
        _mm_pause();
    }
    return ready();
}

}  // namespace

DefaultFloatEnvironment::DefaultFloatEnvironment() : saved_(_mm_getcsr()) {
    _mm_setcsr(kDefaultMxcsr);
}
DefaultFloatEnvironment::~DefaultFloatEnvironment() {
    _mm_setcsr(saved_);
}

struct ThreadPool::State {
    std::mutex callers;  // one job at a time

    // The job: written while the door is shut and nobody is inside.
    Thunk thunk = nullptr;
    void* context = nullptr;
    int phases = 0;
    std::array<std::int64_t, kMostPhases + 1> begin{};  // first item of each phase, then the number of items

    std::atomic<std::uint64_t> door{0};
    std::atomic<bool> stop{false};
    // Every claim and every end of an item writes these: not on the line that waiting workers watch.
    alignas(64) std::atomic<std::int64_t> next{0};
    std::atomic<std::int64_t> done{0};
    std::atomic<bool> failed{false};

    alignas(64) std::mutex mutex;  // guards `error`, and sleeping on the two below
    std::condition_variable wake;  // the door was opened
    std::condition_variable step;  // a phase ended, the job failed, or the last worker left
    std::exception_ptr error;

    std::int64_t items() const { return begin[static_cast<std::size_t>(phases)]; }

    template <class Ready>
    void sleep_until(const Ready& ready) {
        if (spin_until(ready)) return;
        std::unique_lock lock(mutex);
        step.wait(lock, ready);
    }
    // What sleepers wait for has changed: one that looked before is asleep now, one that looks later will see it.
    void announce() {
        { std::lock_guard lock(mutex); }
        step.notify_all();
    }

    void fail(std::exception_ptr cause) {
        next.store(items(), std::memory_order_relaxed);
        {
            std::lock_guard lock(mutex);
            if (!error) error = std::move(cause);
        }
        failed.store(true, std::memory_order_release);
        announce();
    }

    void work(int worker) {
        DefaultFloatEnvironment environment;
        try {
            claim(worker);
        } catch (...) {
            fail(std::current_exception());
        }
    }

    void claim(int worker) {
        int phase = 0;
        const std::int64_t end = items();
        for (std::int64_t item; (item = next.fetch_add(1, std::memory_order_relaxed)) < end;) {
            while (item >= begin[static_cast<std::size_t>(phase) + 1]) ++phase;
            const std::int64_t first = begin[static_cast<std::size_t>(phase)];
            if (first > 0 && done.load(std::memory_order_acquire) < first) {
                sleep_until([&] {
                    return done.load(std::memory_order_acquire) >= first || failed.load(std::memory_order_acquire);
                });
                if (failed.load(std::memory_order_acquire)) return;
            }
            thunk(context, phase, item - first, worker);
            const std::int64_t ended = done.fetch_add(1, std::memory_order_acq_rel) + 1;
            if (ended != end && std::find(begin.begin(), begin.begin() + phases, ended) != begin.begin() + phases)
                announce();
        }
    }

    // False when the job was over before this worker came.
    bool enter(std::uint64_t job) {
        std::uint64_t seen = door.load(std::memory_order_acquire);
        while (job_of(seen) == job && (seen & kOpen))
            if (door.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire))
                return true;
        return false;
    }

    void leave() {
        const std::uint64_t before = door.fetch_sub(1, std::memory_order_acq_rel);
        if ((before & kInside) == 1 && !(before & kOpen)) announce();
    }

    void serve(int worker) {
        std::uint64_t seen = 0;
        for (;;) {
            const auto opened = [&] { return stop || job_of(door.load(std::memory_order_acquire)) != seen; };
            if (!spin_until(opened)) {
                std::unique_lock lock(mutex);
                wake.wait(lock, opened);
            }
            if (stop) return;
            seen = job_of(door.load(std::memory_order_acquire));
            if (!enter(seen)) continue;
            work(worker);
            leave();
        }
    }

    void open() {
        const std::uint64_t job = job_of(door.load(std::memory_order_relaxed)) + 1;
        {
            std::lock_guard lock(mutex);
            door.store(job << 32 | kOpen, std::memory_order_release);
        }
        wake.notify_all();
    }

    void close() {
        if ((door.fetch_and(~kOpen, std::memory_order_acq_rel) & kInside) == 0) return;
        sleep_until([&] { return (door.load(std::memory_order_acquire) & kInside) == 0; });
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
    }
    state_->wake.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(std::span<const std::int64_t> counts, Thunk thunk, void* context) {
    MOESTRO_CHECK(counts.size() <= std::size_t{kMostPhases});
    State& state = *state_;
    std::lock_guard serial(state.callers);
    state.thunk = thunk;
    state.context = context;
    state.phases = static_cast<int>(counts.size());
    for (std::size_t phase = 0; phase < counts.size(); ++phase)
        state.begin[phase + 1] = state.begin[phase] + std::max<std::int64_t>(counts[phase], 0);
    if (state.items() == 0) return;
    state.next.store(0, std::memory_order_relaxed);
    state.done.store(0, std::memory_order_relaxed);
    state.failed.store(false, std::memory_order_relaxed);
    const bool together = threads_ > 1 && std::ranges::any_of(counts, [](std::int64_t count) { return count > 1; });
    if (together) state.open();
    state.work(0);
    if (together) state.close();
    if (state.failed.load(std::memory_order_acquire)) {
        std::unique_lock lock(state.mutex);
        std::exception_ptr error = std::exchange(state.error, nullptr);
        lock.unlock();
        std::rethrow_exception(std::move(error));
    }
}

}  // namespace moestro
