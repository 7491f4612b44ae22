#include "base/thread_pool.h"

#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>
#include <xmmintrin.h>

#include <array>
#include <atomic>
#include <chrono>
#include <fstream>
#include <mutex>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace moestro {
namespace {

constexpr unsigned kDefaultEnvironment = 0x1f80;
constexpr unsigned kFlushToZero = 0x9fc0;  // flush to zero and denormals are zero
constexpr unsigned kSticky = 0x3f;         // exception flags: whatever was computed

class Pool : public testing::TestWithParam<int> {};

TEST_P(Pool, EveryItemOnceByAKnownWorker) {
    ThreadPool pool(GetParam());
    EXPECT_EQ(pool.threads(), GetParam());
    for (const std::int64_t items : {0, 1, 2, 3, 100, 1000}) {
        std::vector<std::atomic<int>> seen(static_cast<std::size_t>(items));
        std::atomic<bool> known{true};
        pool.parallel_for(items, [&](std::int64_t item, int worker) {
            ++seen[static_cast<std::size_t>(item)];
            if (worker < 0 || worker >= GetParam()) known = false;
        });
        for (const std::atomic<int>& times : seen) EXPECT_EQ(times, 1);
        EXPECT_TRUE(known);
    }
}

TEST_P(Pool, AWorkerNumberIsUsedByOneThreadAtATime) {
    ThreadPool pool(GetParam());
    std::vector<std::atomic<int>> inside(static_cast<std::size_t>(GetParam()));
    std::atomic<int> collisions{0};
    pool.parallel_for(500, [&](std::int64_t, int worker) {
        std::atomic<int>& mine = inside[static_cast<std::size_t>(worker)];
        if (mine.fetch_add(1) != 0) ++collisions;
        std::this_thread::yield();
        mine.fetch_sub(1);
    });
    EXPECT_EQ(collisions, 0);
}

TEST_P(Pool, WhatBodiesWroteIsThereAfterwards) {
    ThreadPool pool(GetParam());
    std::vector<std::int64_t> squares(1000);
    for (int round = 0; round < 200; ++round) {
        pool.parallel_for(
            1000, [&](std::int64_t item, int) { squares[static_cast<std::size_t>(item)] = item * item + round; });
        for (std::int64_t i = 0; i < 1000; ++i) ASSERT_EQ(squares[static_cast<std::size_t>(i)], i * i + round);
    }
}

TEST_P(Pool, AnExceptionStopsTheJobAndLeavesThePoolUsable) {
    ThreadPool pool(GetParam());
    for (int round = 0; round < 20; ++round) {
        std::atomic<std::int64_t> ran{0};
        try {
            pool.parallel_for(1'000'000, [&](std::int64_t item, int) {
                ++ran;
                if (item == 3) throw std::runtime_error("item three");
            });
            ADD_FAILURE() << "no error";
        } catch (const std::runtime_error& error) {
            EXPECT_STREQ(error.what(), "item three");
        }
        EXPECT_LT(ran, 1'000'000);
        std::atomic<int> after{0};
        pool.parallel_for(10, [&](std::int64_t, int) { ++after; });
        EXPECT_EQ(after, 10);
    }
}

TEST_P(Pool, OneOfManyExceptionsArrives) {
    ThreadPool pool(GetParam());
    EXPECT_THROW(pool.parallel_for(100, [](std::int64_t, int) { throw std::runtime_error("all"); }),
                 std::runtime_error);
}

TEST_P(Pool, BodiesRunInTheDefaultFloatEnvironmentAndTheCallersIsRestored) {
    ThreadPool pool(GetParam());
    const unsigned before = _mm_getcsr();
    _mm_setcsr(kFlushToZero);
    std::atomic<int> wrong{0};
    pool.parallel_for(200, [&](std::int64_t, int) {
        if ((_mm_getcsr() & ~kSticky) != kDefaultEnvironment) ++wrong;
        std::this_thread::yield();
    });
    const unsigned after = _mm_getcsr();
    EXPECT_THROW(pool.parallel_for(2, [](std::int64_t, int) { throw std::runtime_error("stop"); }), std::runtime_error);
    const unsigned after_error = _mm_getcsr();
    _mm_setcsr(before);
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(after, kFlushToZero);
    EXPECT_EQ(after_error, kFlushToZero);
}

TEST_P(Pool, ConcurrentCallersAreServedOneAfterTheOther) {
    ThreadPool pool(GetParam());
    std::atomic<int> inside{-1}, overlaps{0};
    std::atomic<std::int64_t> total{0};
    const auto work = [&](int caller) {
        for (int round = 0; round < 50; ++round) {
            std::atomic<int> left{20};
            pool.parallel_for(20, [&](std::int64_t item, int) {
                int nobody = -1;
                if (!inside.compare_exchange_strong(nobody, caller) && nobody != caller) ++overlaps;
                total += item;
                if (--left == 0) inside = -1;
            });
        }
    };
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) callers.emplace_back(work, caller);
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(overlaps, 0);
    EXPECT_EQ(total, 4 * 50 * 190);
}

TEST_P(Pool, APhaseBeginsWhenAllBeforeItHasEnded) {
    ThreadPool pool(GetParam());
    const std::array<std::int64_t, 5> counts{7, 0, 1, 50, 3};
    for (int round = 0; round < 100; ++round) {
        std::array<std::array<int, 50>, 5> times{};  // not atomic: the sanitizer sees a missing order
        std::atomic<int> early{0};
        pool.parallel_phases(
            {counts[0], counts[1], counts[2], counts[3], counts[4]}, [&](int phase, std::int64_t item, int worker) {
                if (worker < 0 || worker >= GetParam()) ++early;
                for (int before = 0; before < phase; ++before)
                    for (std::int64_t i = 0; i < counts[static_cast<std::size_t>(before)]; ++i)
                        early += times[static_cast<std::size_t>(before)][static_cast<std::size_t>(i)] != 1;
                ++times[static_cast<std::size_t>(phase)][static_cast<std::size_t>(item)];
            });
        ASSERT_EQ(early, 0);
        for (std::size_t phase = 0; phase < counts.size(); ++phase)
            ASSERT_EQ(std::accumulate(times[phase].begin(), times[phase].end(), 0), counts[phase]);
    }
}

TEST_P(Pool, ALongPhaseIsWaitedForAsleep) {
    ThreadPool pool(GetParam());
    std::atomic<int> done{0}, early{0};
    pool.parallel_phases({GetParam(), 2 * GetParam()}, [&](int phase, std::int64_t item, int) {
        if (phase == 0 && item == 0) std::this_thread::sleep_for(std::chrono::milliseconds(5));
        if (phase == 0) ++done;
        if (phase == 1 && done != GetParam()) ++early;
    });
    EXPECT_EQ(done, GetParam());
    EXPECT_EQ(early, 0);
}

TEST_P(Pool, AnExceptionInAPhaseReleasesWhoWaitsForIt) {
    ThreadPool pool(GetParam());
    for (int at = 0; at < 3; ++at)
        for (int round = 0; round < 20; ++round) {
            std::atomic<int> later{0};
            try {
                pool.parallel_phases({4, 4, 4}, [&](int phase, std::int64_t item, int) {
                    if (phase > at) ++later;
                    if (phase != at || item != 2) return;
                    if (round % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
                    throw std::runtime_error("phase " + std::to_string(at));
                });
                ADD_FAILURE() << "no error";
            } catch (const std::runtime_error& error) {
                EXPECT_EQ(error.what(), "phase " + std::to_string(at));
            }
            EXPECT_EQ(later, 0);
            std::atomic<int> after{0};
            pool.parallel_phases({3, 3}, [&](int, std::int64_t, int) { ++after; });
            EXPECT_EQ(after, 6);
        }
}

INSTANTIATE_TEST_SUITE_P(Threads, Pool, testing::Values(1, 2, 3, 8));

TEST(ThreadPool, NothingToDoIsDone) {
    ThreadPool pool(2);
    pool.parallel_for(0, [](std::int64_t, int) { ADD_FAILURE(); });
    pool.parallel_phases({0, 0}, [](int, std::int64_t, int) { ADD_FAILURE(); });
    pool.parallel_phases({}, [](int, std::int64_t, int) { ADD_FAILURE(); });
}

TEST(ThreadPool, SingleItemsRunOnTheCallerOnePhaseAfterTheOther) {
    ThreadPool pool(4);
    const std::thread::id caller = std::this_thread::get_id();
    std::vector<int> order;
    for (int round = 0; round < 50; ++round) {
        order.clear();
        pool.parallel_phases({1, 1, 0, 1}, [&](int phase, std::int64_t, int worker) {
            EXPECT_EQ(std::this_thread::get_id(), caller);
            EXPECT_EQ(worker, 0);
            order.push_back(phase);
        });
        EXPECT_EQ(order, (std::vector<int>{0, 1, 3}));
    }
}

TEST(ThreadPool, AllThreadsTakePart) {
    ThreadPool pool(3);
    std::atomic<int> arrived{0};
    std::mutex mutex;
    std::set<std::thread::id> threads;
    std::set<int> workers;
    pool.parallel_for(3, [&](std::int64_t, int worker) {
        ++arrived;
        while (arrived < 3) std::this_thread::yield();  // nobody can take two items
        std::lock_guard lock(mutex);
        threads.insert(std::this_thread::get_id());
        workers.insert(worker);
    });
    EXPECT_EQ(threads.size(), 3u);
    EXPECT_EQ(workers, (std::set<int>{0, 1, 2}));
}

TEST(ThreadPool, AParkedPoolWakesUp) {
    ThreadPool pool(3);
    for (int round = 0; round < 5; ++round) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        std::atomic<int> ran{0};
        pool.parallel_for(30, [&](std::int64_t, int) { ++ran; });
        EXPECT_EQ(ran, 30);
    }
}

TEST(ThreadPool, FewerThanOneThreadIsRefused) {
    for (const int threads : {0, -1}) {
        try {
            const ThreadPool pool(threads);
            ADD_FAILURE() << "no error";
        } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::usage);
        }
    }
}

// In a process of its own: threads with stacks of 1 GiB, and addresses for only a few of them.
void ask_for_more_threads_than_there_are() {
    pthread_attr_t attributes;
    ::pthread_attr_init(&attributes);
    ::pthread_attr_setstacksize(&attributes, std::size_t{1} << 30);
    ::pthread_setattr_default_np(&attributes);
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    rlimit addresses{};
    ::getrlimit(RLIMIT_AS, &addresses);
    addresses.rlim_cur = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)) + (std::size_t{9} << 29);
    ::setrlimit(RLIMIT_AS, &addresses);
    try {
        const ThreadPool pool(16);
    } catch (const Error& error) {
        const bool named = std::string(error.what()).find("of 16 for computing") != std::string::npos;
        ::_exit(error.kind() == ErrorKind::unsupported && named ? 7 : 1);
    }
    ::_exit(2);
}

TEST(ThreadPoolDeathTest, ThreadsTheSystemRefusesAreAnError) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");
    EXPECT_EXIT(ask_for_more_threads_than_there_are(), testing::ExitedWithCode(7), "");
}

TEST(ThreadPool, OneThreadIsTheCaller) {
    ThreadPool pool(1);
    const std::thread::id caller = std::this_thread::get_id();
    pool.parallel_for(5, [&](std::int64_t, int worker) {
        EXPECT_EQ(std::this_thread::get_id(), caller);
        EXPECT_EQ(worker, 0);
    });
}

TEST(DefaultFloatEnvironment, LastsForItsScope) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(kFlushToZero);
    unsigned inside = 0;
    {
        const DefaultFloatEnvironment environment;
        inside = _mm_getcsr();
    }
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    EXPECT_EQ(inside, kDefaultEnvironment);
    EXPECT_EQ(after, kFlushToZero);
}

}  // namespace
}  // namespace moestro
