#include "base/trace.h"

#include <gtest/gtest.h>

#include <thread>

namespace moestro {
namespace {

TEST(TraceRing, KeepsTheLatestInOrder) {
    TraceRing ring(4);
    for (int i = 0; i < 10; ++i) ring.add({.item = i});
    std::uint64_t lost = 0;
    const auto events = ring.take(lost);
    ASSERT_EQ(events.size(), 4u);
    for (int i = 0; i < 4; ++i) EXPECT_EQ(events[static_cast<std::size_t>(i)].item, 6 + i);
    EXPECT_EQ(lost, 6u);
    EXPECT_TRUE(ring.take(lost).empty());
    EXPECT_EQ(lost, 0u);
    ring.add({.item = 99});
    EXPECT_EQ(ring.take(lost).front().item, 99);
}

TEST(TraceRing, WithoutRoomItRecordsNothing) {
    TraceRing ring(0);
    ring.add({});
    std::uint64_t lost = 0;
    EXPECT_TRUE(ring.take(lost).empty());
    EXPECT_EQ(lost, 0u);
}

TEST(TraceRing, ThreadsLoseNothing) {
    TraceRing ring(1000);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread)
        threads.emplace_back([&ring] {
            for (int i = 0; i < 250; ++i) ring.add({.item = i});
        });
    for (std::thread& thread : threads) thread.join();
    std::uint64_t lost = 0;
    EXPECT_EQ(ring.take(lost).size(), 1000u);
    EXPECT_EQ(lost, 0u);
}

TEST(LaneTimes, ReadsWaitBehindEachOther) {
    LaneTimes times;
    EXPECT_EQ(times.done(10, 30), 10);  // alone
    EXPECT_EQ(times.done(10, 45), 30);  // behind the first
    EXPECT_EQ(times.done(50, 60), 50);  // after a pause
    EXPECT_EQ(times.queued, 20);
}

}  // namespace
}  // namespace moestro
