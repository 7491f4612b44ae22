#include "exec/schedule_trial.h"

#include <gtest/gtest.h>

#include <map>

namespace moestro::exec {
namespace {

using Costs = std::map<std::string, Nanos, std::less<>>;  // of a step of one row, by planner

const Costs kCosts{{"hybrid", 4'000'000}, {"static", 3'000'000}, {"on_demand", 1'500'000}, {"cpu", 2'000'000}};

// Steps until it is over; returns how many that took.
int decide(ScheduleTrial& trial, const Costs& costs) {
    int steps = 0;
    for (; !trial.over() && steps < 1000; ++steps) trial.step(1, costs.find(trial.current())->second);
    return steps;
}

TEST(ScheduleTrial, ChoosesTheOneThatTakesTheLeastPerToken) {
    for (const char* best : {"hybrid", "static", "on_demand", "cpu"}) {
        Costs costs = kCosts;
        costs[best] = 1;
        ScheduleTrial trial;
        decide(trial, costs);
        ASSERT_TRUE(trial.over());
        EXPECT_EQ(trial.current(), best);
    }
}

TEST(ScheduleTrial, EveryoneHasTheSameNumberOfSteps) {
    ScheduleTrial trial;
    std::map<std::string, int, std::less<>> steps;
    while (!trial.over()) {
        ++steps[std::string(trial.current())];
        trial.step(1, 100);
    }
    ASSERT_EQ(steps.size(), 4u);
    for (const auto& [name, count] : steps) EXPECT_EQ(count, steps["hybrid"]) << name;
}

// Of three rounds with four steps each, the first step of a turn counts for nothing.
TEST(ScheduleTrial, WhatTheOneBeforeLeftInTheCachesIsNotHeldAgainstTheNext) {
    ScheduleTrial trial;
    std::string last;
    while (!trial.over()) {
        const std::string name(trial.current());
        const bool first = std::exchange(last, name) != name;
        trial.step(1, first ? (name == "cpu" ? 1 : 1'000'000'000) : kCosts.find(name)->second);
    }
    EXPECT_EQ(trial.current(), "on_demand");
}

TEST(ScheduleTrial, AFewSlowStepsDecideNothing) {
    ScheduleTrial trial;
    int good = 0;
    while (!trial.over()) {
        Nanos took = kCosts.find(trial.current())->second;
        if (trial.current() == "on_demand" && good++ % 4 == 2) took *= 1000;  // the disk hiccups, once in a turn
        trial.step(1, took);
    }
    EXPECT_EQ(trial.current(), "on_demand") << "it is by the median";
}

TEST(ScheduleTrial, StepsOfSeveralRowsCountByTheRow) {
    ScheduleTrial trial;
    while (!trial.over()) {
        const bool four = trial.current() == "static";
        trial.step(four ? 4 : 1, four ? 4'000'000 : 1'500'000);
    }
    EXPECT_EQ(trial.current(), "static");
}

TEST(ScheduleTrial, PrefillSaysNothingAndTakesNobodysTurn) {
    ScheduleTrial plain, disturbed;
    const int steps = decide(plain, kCosts);
    int counted = 0;
    for (; !disturbed.over(); ++counted) {
        // Under the best one a long prompt comes before every step.
        const Nanos prefill = disturbed.current() == "on_demand" ? 1'000'000'000'000 : 1;
        EXPECT_FALSE(disturbed.step(512, prefill));
        EXPECT_FALSE(disturbed.step(9, prefill));
        EXPECT_FALSE(disturbed.step(0, prefill));
        disturbed.step(1, kCosts.find(disturbed.current())->second);
    }
    EXPECT_EQ(counted, steps);
    EXPECT_EQ(disturbed.summary(), plain.summary());
}

TEST(ScheduleTrial, SaysWhenAnotherPlansTheNextStep) {
    for (const char* best : {"hybrid", "static", "on_demand", "cpu"}) {
        Costs costs = kCosts;
        costs[best] = 1;
        ScheduleTrial trial;
        for (int i = 0; i < 200; ++i) {
            const std::string before(trial.current());
            const bool another = trial.step(1, costs.find(before)->second);
            EXPECT_EQ(another, trial.current() != before) << before << ", step " << i << ", " << best << " is best";
        }
    }
}

TEST(ScheduleTrial, NothingChangesOnceItIsOver) {
    ScheduleTrial trial;
    decide(trial, kCosts);
    const std::string summary = trial.summary();
    for (int i = 0; i < 100; ++i) EXPECT_FALSE(trial.step(1, 1'000'000'000));
    EXPECT_EQ(trial.summary(), summary);
}

TEST(ScheduleTrial, SaysWhatIsBeingTried) {
    ScheduleTrial trial;
    EXPECT_EQ(trial.summary(), "auto: trying hybrid, round 1 of 3");
    while (!trial.step(1, 100)) {
    }
    EXPECT_EQ(trial.summary(), "auto: trying static, round 1 of 3");
    for (int turn = 0; turn < 3; ++turn)
        while (!trial.step(1, 100)) {
        }
    EXPECT_EQ(trial.summary(), "auto: trying hybrid, round 2 of 3");
}

TEST(ScheduleTrial, SaysWhatEachTook) {
    ScheduleTrial trial;
    decide(trial, kCosts);
    EXPECT_EQ(trial.summary(), "auto: on_demand, 1.500 ms a token (hybrid 4.000, static 3.000, cpu 2.000)");
}

TEST(ScheduleTrial, OfEqualOnesTheFirstIsChosen) {
    ScheduleTrial trial;
    decide(trial, {{"hybrid", 7}, {"static", 7}, {"on_demand", 7}, {"cpu", 7}});
    EXPECT_EQ(trial.current(), "hybrid");
}

}  // namespace
}  // namespace moestro::exec
