#include "sim/virtual_source.h"

#include <gtest/gtest.h>

#include <utility>

#include "base/error.h"

namespace moestro::sim {
namespace {

struct Fixture {
    VirtualClock clock;
    VirtualSource source{clock, {100, 50, 10, 0}, {4096, 8192, 4096, 4096}};
    std::vector<store::Arrival> arrivals;

    void start(int number, bool urgent = true) { source.start(number, nullptr, urgent); }
    std::vector<int> poll() {
        source.poll(arrivals);
        return taken();
    }
    std::vector<int> wait() {
        source.wait(arrivals);
        return taken();
    }
    std::vector<int> taken() {
        std::vector<int> numbers;
        for (const store::Arrival& one : std::exchange(arrivals, {})) {
            EXPECT_FALSE(one.error);
            numbers.push_back(one.number);
        }
        return numbers;
    }
};

TEST(VirtualSource, ServesOneRecordAfterTheOther) {
    Fixture f;
    f.start(0);
    f.start(1);
    EXPECT_EQ(f.source.in_flight(), 2u);
    EXPECT_EQ(f.poll(), (std::vector<int>{}));
    f.clock.advance(99);
    EXPECT_EQ(f.poll(), (std::vector<int>{}));
    f.clock.advance(1);
    EXPECT_EQ(f.poll(), (std::vector<int>{0}));
    f.clock.advance(49);
    EXPECT_EQ(f.poll(), (std::vector<int>{}));
    EXPECT_EQ(f.wait(), (std::vector<int>{1}));
    EXPECT_EQ(f.clock.now(), 150);
    EXPECT_EQ(f.source.in_flight(), 0u);
    EXPECT_EQ(f.source.busy(), 150);
    EXPECT_EQ(f.source.counters().bytes, 4096u + 8192);
    EXPECT_EQ(f.source.counters().reads, 2u);
    EXPECT_THROW(f.wait(), Error) << "nothing will come";
}

TEST(VirtualSource, GoesOnWhileNobodyLooks) {
    Fixture f;
    f.start(0);
    f.start(1);
    f.start(2);
    f.clock.advance(155);
    EXPECT_EQ(f.poll(), (std::vector<int>{0, 1}));
    EXPECT_EQ(f.wait(), (std::vector<int>{2}));
    EXPECT_EQ(f.clock.now(), 160) << "it began at 150, whenever somebody asked";
    f.clock.advance(1000);
    f.start(1);
    EXPECT_EQ(f.wait(), (std::vector<int>{1}));
    EXPECT_EQ(f.clock.now(), 1210) << "and not before it was asked for";
}

TEST(VirtualSource, WhatIsWaitedForOvertakesButInterruptsNothing) {
    Fixture f;
    f.start(0, false);
    f.start(1, false);
    f.start(2, true);
    EXPECT_EQ(f.source.backlog(), 100 + 10) << "the one that is served, and those that are waited for";
    EXPECT_EQ(f.wait(), (std::vector<int>{0}));
    EXPECT_EQ(f.source.backlog(), 10);
    EXPECT_EQ(f.wait(), (std::vector<int>{2}));
    EXPECT_EQ(f.clock.now(), 110);
    EXPECT_EQ(f.source.backlog(), 50);
    f.clock.advance(20);
    EXPECT_EQ(f.source.backlog(), 30);
    EXPECT_EQ(f.wait(), (std::vector<int>{1}));
    EXPECT_EQ(f.source.backlog(), 0);
}

TEST(VirtualSource, WhatTakesNoTimeIsThereAtOnce) {
    Fixture f;
    f.start(3);
    EXPECT_EQ(f.poll(), (std::vector<int>{3}));
    EXPECT_EQ(f.clock.now(), 0);
}

}  // namespace
}  // namespace moestro::sim
