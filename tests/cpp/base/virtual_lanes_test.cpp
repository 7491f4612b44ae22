#include "base/virtual_lanes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <string>

namespace moestro {
namespace {

using Operation = VirtualLanes::Operation;

// Lanes that write down what ended when.
struct Traced {
    explicit Traced(int count) : lanes(count) {}

    Operation submit(int lane, Nanos takes, const std::string& name, const std::vector<Operation>& after = {}) {
        return lanes.submit(lane, takes, after, [this, name] { trace.emplace_back(lanes.now(), name); });
    }
    void drain() {
        while (lanes.step()) {
        }
    }

    using Trace = std::vector<std::pair<Nanos, std::string>>;
    VirtualLanes lanes;
    Trace trace;
};

TEST(VirtualLanes, OneLaneServesInTheOrderOfSubmission) {
    Traced t(1);
    t.submit(0, 30, "long");
    t.submit(0, 5, "short");
    t.submit(0, 0, "nothing");
    t.drain();
    EXPECT_EQ(t.trace, (Traced::Trace{{30, "long"}, {35, "short"}, {35, "nothing"}}));
}

TEST(VirtualLanes, LanesRunBesideEachOther) {
    Traced t(2);
    t.submit(0, 30, "a");
    t.submit(1, 20, "b");
    t.submit(1, 20, "c");
    t.drain();
    EXPECT_EQ(t.trace, (Traced::Trace{{20, "b"}, {30, "a"}, {40, "c"}}));
}

TEST(VirtualLanes, OfEqualEndsWhatWasSubmittedFirstGoesFirst) {
    Traced t(3);
    t.submit(2, 10, "first");
    t.submit(0, 10, "second");
    t.submit(1, 10, "third");
    t.drain();
    EXPECT_EQ(t.trace, (Traced::Trace{{10, "first"}, {10, "second"}, {10, "third"}}));
}

TEST(VirtualLanes, AnOperationBeginsWhenAllItFollowsAreOver) {
    Traced t(3);
    const Operation a = t.submit(0, 10, "a"), b = t.submit(1, 25, "b");
    t.submit(2, 5, "after both", {a, b});
    t.submit(2, 1, "behind it");
    t.drain();
    EXPECT_EQ(t.trace, (Traced::Trace{{10, "a"}, {25, "b"}, {30, "after both"}, {31, "behind it"}}));
}

TEST(VirtualLanes, WhatIsOverHoldsNothingUp) {
    Traced t(2);
    const Operation a = t.submit(0, 10, "a");
    t.lanes.advance(40);
    EXPECT_TRUE(t.lanes.over(a));
    EXPECT_TRUE(t.lanes.over(0)) << "nobody's";
    t.submit(1, 5, "b", {a, 0});
    t.drain();
    EXPECT_EQ(t.trace.back(), (std::pair<Nanos, std::string>{45, "b"})) << "not before it was asked for";
}

TEST(VirtualLanes, AdvancingEndsWhatEndsMeanwhileAndLeavesTheClockThere) {
    Traced t(1);
    t.submit(0, 10, "a");
    t.submit(0, 10, "b");
    const Operation c = t.submit(0, 10, "c");
    t.lanes.advance(9);
    EXPECT_TRUE(t.trace.empty());
    EXPECT_EQ(t.lanes.now(), 9);
    t.lanes.advance(16);
    EXPECT_EQ(t.trace, (Traced::Trace{{10, "a"}, {20, "b"}})) << "bodies see the time of their end";
    EXPECT_EQ(t.lanes.now(), 25);
    t.lanes.advance(5);
    EXPECT_TRUE(t.lanes.over(c)) << "it ends at the very moment";
    EXPECT_EQ(t.lanes.now(), 30);
}

TEST(VirtualLanes, AdvancingByNothingEndsWhatTakesNothing) {
    Traced t(1);
    t.submit(0, 0, "a");
    EXPECT_TRUE(t.trace.empty()) << "never before the caller gives its thread";
    t.lanes.advance(0);
    EXPECT_EQ(t.trace, (Traced::Trace{{0, "a"}}));
}

TEST(VirtualLanes, TimeNeverRunsBackwards) {
    Traced t(1);
    t.lanes.advance(10);
    t.lanes.advance(-5);
    EXPECT_EQ(t.lanes.now(), 10);
    t.submit(0, -3, "a");
    t.drain();
    EXPECT_EQ(t.trace, (Traced::Trace{{10, "a"}}));
}

TEST(VirtualLanes, BodiesMaySubmitAndTheNewWorkBeginsAtTheEndOfTheOld) {
    Traced t(2);
    t.lanes.submit(0, 10, {}, [&] {
        t.submit(0, 5, "on the same lane");
        t.submit(1, 7, "on another");
        t.submit(1, 0, "behind it");
    });
    t.lanes.advance(15);
    EXPECT_EQ(t.trace, (Traced::Trace{{15, "on the same lane"}})) << "what a body asks for ends meanwhile too";
    t.drain();
    EXPECT_EQ(t.trace, (Traced::Trace{{15, "on the same lane"}, {17, "on another"}, {17, "behind it"}}));
}

TEST(VirtualLanes, AnOperationIsOverWhenItsBodyRuns) {
    VirtualLanes lanes(1);
    Operation mine = 0;
    bool over = false;
    mine = lanes.submit(0, 3, {}, [&] { over = lanes.over(mine); });
    EXPECT_FALSE(lanes.over(mine));
    EXPECT_TRUE(lanes.step());
    EXPECT_TRUE(over);
}

TEST(VirtualLanes, AStepEndsOneOperation) {
    Traced t(2);
    t.submit(0, 10, "a");
    t.submit(1, 10, "b");
    EXPECT_TRUE(t.lanes.step());
    EXPECT_EQ(t.trace.size(), 1u);
    EXPECT_TRUE(t.lanes.step());
    EXPECT_EQ(t.trace.size(), 2u);
    EXPECT_EQ(t.lanes.now(), 10);
}

TEST(VirtualLanes, NothingUnderWayIsNoStep) {
    VirtualLanes lanes(1);
    lanes.advance(7);
    EXPECT_FALSE(lanes.step());
    EXPECT_EQ(lanes.now(), 7);
}

TEST(VirtualLanes, FinishingAnOperationEndsWhatEndsBeforeAndNoMore) {
    Traced t(2);
    t.submit(0, 10, "before");
    const Operation b = t.submit(1, 20, "wanted");
    const Operation c = t.submit(0, 11, "later");
    t.lanes.finish(b);
    EXPECT_EQ(t.trace, (Traced::Trace{{10, "before"}, {20, "wanted"}}));
    EXPECT_EQ(t.lanes.now(), 20);
    EXPECT_FALSE(t.lanes.over(c));
    t.lanes.finish(b);
    t.lanes.finish(0);
    EXPECT_EQ(t.lanes.now(), 20) << "it was over";
}

TEST(VirtualLanes, AnOperationNeedsNoBody) {
    VirtualLanes lanes(1);
    const Operation one = lanes.submit(0, 5, {}, {});
    lanes.finish(one);
    EXPECT_EQ(lanes.now(), 5);
}

// What was submitted when, and when its body ran.
struct Job {
    int lane = 0;
    Nanos takes = 0;
    std::vector<std::size_t> after;  // earlier jobs
    Nanos submitted = 0;
    Nanos end = -1;
};

// Submits, advances and steps at random; bodies submit too.
class RandomProgram {
  public:
    explicit RandomProgram(unsigned seed) : random_(seed) {
        for (int i = 0; i < 200; ++i) {
            const unsigned dice = random_() % 10;
            if (dice < 6)
                submit();
            else if (dice < 8)
                lanes_.advance(static_cast<Nanos>(random_() % 20));
            else
                lanes_.step();
        }
        while (lanes_.step()) {
        }
    }

    std::vector<Job> jobs;
    std::vector<std::size_t> order;  // in which they ended

  private:
    void submit() {
        Job job{static_cast<int>(random_() % kLanes), static_cast<Nanos>(random_() % 12), {}, lanes_.now(), -1};
        std::vector<Operation> after;
        for (unsigned i = random_() % 3; i > 0 && !jobs.empty(); --i) {
            // Recent ones: they may be under way.
            job.after.push_back(jobs.size() - 1 - random_() % std::min<std::size_t>(jobs.size(), 8));
            after.push_back(operations_[job.after.back()]);
        }
        const std::size_t number = jobs.size();
        const bool more = random_() % 4 == 0;
        jobs.push_back(job);
        operations_.push_back(lanes_.submit(job.lane, job.takes, after, [this, number, more] {
            jobs[number].end = lanes_.now();
            order.push_back(number);
            if (more) submit();
        }));
    }

    static constexpr unsigned kLanes = 3;
    std::mt19937 random_;
    VirtualLanes lanes_{kLanes};
    std::vector<Operation> operations_;
};

// The same, one nanosecond after the other: every lane looks at the oldest job that it was given.
std::vector<Nanos> ends_by_ticks(const std::vector<Job>& jobs) {
    std::vector<Nanos> ends(jobs.size(), -1);
    const auto over = [&](std::size_t number, Nanos now) { return ends[number] >= 0 && ends[number] <= now; };
    std::size_t left = jobs.size();
    for (Nanos now = 0; left > 0; ++now)
        for (bool changed = true; changed;) {  // what takes nothing ends where it begins
            changed = false;
            for (int lane = 0; lane < 3; ++lane)
                for (std::size_t i = 0; i < jobs.size(); ++i) {
                    if (jobs[i].lane != lane || over(i, now)) continue;
                    const auto& after = jobs[i].after;
                    const bool ready =
                        ends[i] < 0 && jobs[i].submitted <= now &&
                        std::all_of(after.begin(), after.end(), [&](std::size_t one) { return over(one, now); });
                    if (ready) {
                        ends[i] = now + jobs[i].takes;
                        --left;
                        changed = true;
                    }
                    break;  // others of this lane are behind it
                }
        }
    return ends;
}

TEST(VirtualLanes, RandomProgramsEndAsOneNanosecondAfterTheOtherSays) {
    for (unsigned seed = 0; seed < 30; ++seed) {
        const RandomProgram program(seed);
        const std::vector<Nanos> expected = ends_by_ticks(program.jobs);
        for (std::size_t i = 0; i < program.jobs.size(); ++i)
            ASSERT_EQ(program.jobs[i].end, expected[i]) << "job " << i << ", seed " << seed;
        std::vector<std::size_t> order(program.jobs.size());
        for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
        std::stable_sort(order.begin(), order.end(),
                         [&](std::size_t one, std::size_t other) { return expected[one] < expected[other]; });
        ASSERT_EQ(program.order, order) << "by end, then by submission";
    }
}

TEST(VirtualLanes, TheSameProgramRunsTheSameWayTwice) {
    const RandomProgram first(5), second(5);
    EXPECT_EQ(first.order, second.order);
    ASSERT_EQ(first.jobs.size(), second.jobs.size());
    for (std::size_t i = 0; i < first.jobs.size(); ++i) EXPECT_EQ(first.jobs[i].end, second.jobs[i].end);
}

}  // namespace
}  // namespace moestro
