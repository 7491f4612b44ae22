#include "policy/ring_schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "base/error.h"
#include "support/refusal.h"

namespace moestro::policy {
namespace {

using testing::refusal;
using Load = RingSchedule::Load;
using Stage = RingSchedule::Stage;

// A device that computes a unit in `compute` and a disk that reads one at a time in `read`, in exact whole numbers, as
// discrete events over the schedule.
struct Machine {
    Machine(const RingSchedule& schedule, long compute, long read) : schedule(schedule), compute(compute), read(read) {}

    RingSchedule schedule;
    long compute, read;
    long now = 0, disk_free = 0;
    std::multimap<long, Load> reading;  // by the time they end
    int most_slots = 0;                 // taken at a time

    void start() {
        while (const auto load = schedule.next()) {
            disk_free = std::max(disk_free, now) + read;
            reading.emplace(disk_free, *load);
        }
        most_slots = std::max(most_slots, schedule.window() - schedule.free_slots());
    }
    // Lets time pass; reads that end are taken in when they end.
    void advance(long until) {
        while (!reading.empty() && reading.begin()->first <= until) {
            now = reading.begin()->first;
            schedule.arrived(reading.begin()->second, true);
            reading.erase(reading.begin());
            start();
        }
        now = until;
    }
    void use(int unit) {
        start();
        while (schedule.look(unit) != Stage::ready) {
            start();
            advance(reading.begin()->first);
        }
        advance(now + compute);
        schedule.pop(unit);
        start();
    }
    // Time per pass once it no longer changes.
    double steady_pass(int units, int passes = 60) {
        const int warm = passes / 2;
        long begin = 0;
        for (int pass = 0; pass < passes; ++pass) {
            if (pass == warm) begin = now;
            schedule.begin(units);
            for (int unit = 0; unit < units; ++unit) use(unit);
        }
        return static_cast<double>(now - begin) / (passes - warm);
    }
};

// Time per exchange of `batch` units through `window` slots, from the longest cycle of dependencies: computing takes
// batch * c, the disk batch * r, and the j-th read of a batch, begun when the batch's slots were free, delays the
// computation that frees the slots of the batch d exchanges later.
double exchange(int window, int batch, double c, double r) {
    double longest = std::max(batch * c, batch * r);
    for (int j = 1; j <= batch; ++j)
        for (int d = 1; d <= window + 1; ++d) {
            const int computed = d * batch + batch - window - j + 1;  // from the j-th unit to the one that frees
            if (computed >= 1) longest = std::max(longest, (j * r + computed * c) / d);
        }
    return longest;
}

TEST(RingSchedule, PassesTakeTheirClosedForms) {
    const int units = 24;  // a multiple of every batch below
    for (int window = 1; window <= 6; ++window)
        for (int batch = 1; batch <= std::min(window, 4); ++batch)
            for (const auto& [compute, read] : {std::pair{10L, 1L}, {10, 9}, {10, 10}, {10, 13}, {10, 40}, {1, 50}}) {
                Machine machine(RingSchedule(units, window, batch), compute, read);
                const double pass = machine.steady_pass(units);
                const double expected =
                    units / batch * exchange(window, batch, static_cast<double>(compute), static_cast<double>(read));
                EXPECT_NEAR(pass, expected, 0.005 * expected)
                    << "window " << window << ", batch " << batch << ", compute " << compute << ", read " << read;
                EXPECT_EQ(machine.most_slots, window);
                machine.schedule.check_integrity();
            }
}

// The published systems, as settings, with the formulas their papers or code give.
TEST(RingSchedule, NamedSystemsFollowTheirFormulas) {
    const int layers = 24;
    for (const auto& [compute, read] : {std::pair{10L, 4L}, {10, 10}, {10, 25}}) {
        const double c = static_cast<double>(compute), r = static_cast<double>(read);
        const auto steady = [&, compute = compute, read = read](int window, int batch) {
            return Machine(RingSchedule(layers, window, batch), compute, read).steady_pass(layers);
        };
        // ZeRO-Inference: two buffers, one computes while the next is filled.
        EXPECT_NEAR(steady(2, 1), layers * std::max(c, r), 1e-9);
        // TPI-LLM: any window from 2 hides reads that are shorter than a layer; a longer one hides no more of equal
        // ones.
        for (int window = 2; window <= 5; ++window) EXPECT_NEAR(steady(window, 1), layers * std::max(c, r), 1e-9);
        // SE-MoE: K slots, layer i in slot i mod K, refilled as soon as it was computed; N * max(S/B, t).
        EXPECT_NEAR(steady(4, 1), layers * std::max(c, r), 1e-9);
        // Superpipeline (k, k'): exchanging one at a time leaves no bubble but the disk's; exchanging all k of them
        // computes and reads in turn, all but the overlap of one exchange with itself.
        EXPECT_NEAR(steady(4, 4), layers / 4 * std::max(r + 4 * c, 4 * r + c), 1e-9);
    }
}

TEST(RingSchedule, SlotsAreTakenInTurn) {
    Machine machine(RingSchedule(7, 3, 1), 1, 5);
    std::vector<int> slots;
    for (int use = 0; use < 12; ++use) {
        const int unit = use % 7;
        machine.start();
        while (machine.schedule.look(unit) != Stage::ready) machine.advance(machine.reading.begin()->first);
        slots.push_back(machine.schedule.front().slot);
        machine.schedule.pop(unit);
    }
    for (int use = 0; use < 12; ++use) EXPECT_EQ(slots[static_cast<std::size_t>(use)], use % 3) << use;
}

// With m units between two streamed ones, a read may take m computations before it shows.
TEST(RingSchedule, UnitsThatStayHideTheReadsOfTheOthers) {
    const int units = 24;
    for (const int every : {2, 3, 4}) {
        for (const long read : {10L, 10L * every, 15L * every}) {
            Machine machine(RingSchedule(units, 2, 1), 10, read);
            for (int unit = 0; unit < units; ++unit)
                if (unit % every != 0) machine.schedule.set_own_room(unit, true);
            const double streamed = static_cast<double>(units) / every;
            EXPECT_NEAR(machine.steady_pass(units), std::max(units * 10.0, streamed * static_cast<double>(read)), 1e-9)
                << "every " << every << ", read " << read;
        }
    }
}

TEST(RingSchedule, APassThatEndsEarlierGoesOnWithTheFirstUnit) {
    Machine machine(RingSchedule(10, 3, 1), 1, 1);
    for (int pass = 0; pass < 5; ++pass) {
        machine.schedule.begin(7);
        for (int unit = 0; unit < 7; ++unit) machine.use(unit);
    }
    machine.schedule.begin(7);
    EXPECT_EQ(machine.schedule.look(0), Stage::ready) << "read ahead of its pass";
    machine.schedule.begin(10);
    for (int unit = 0; unit < 10; ++unit) machine.use(unit);
    machine.schedule.check_integrity();
}

TEST(RingSchedule, WhatCannotBeIsRefused) {
    const auto make = [](int units, int window, int batch) { return [=] { RingSchedule(units, window, batch); }; };
    EXPECT_NE(refusal(make(0, 2, 1)).find("at least one unit"), std::string::npos);
    EXPECT_NE(refusal(make(4, 0, 1)).find("window"), std::string::npos);
    EXPECT_NE(refusal(make(4, 2, 3)).find("batch 3"), std::string::npos);
    EXPECT_NE(refusal(make(4, 2, 0)).find("batch 0"), std::string::npos);
    RingSchedule schedule(4, 2, 1);
    EXPECT_NE(refusal([&] { schedule.begin(5); }).find("at most the stream's 4 units"), std::string::npos);
}

// Whatever is asked for, and however reads end: no slot is lost or filled twice at a time, and progress never stops.
TEST(RingSchedule, RandomUseLosesNoSlot) {
    for (unsigned seed = 0; seed < 200; ++seed) {
        std::mt19937 random(seed);
        const auto below = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
        const int units = 1 + below(9), window = 1 + below(5), batch = 1 + below(window);
        RingSchedule schedule(units, window, batch);
        std::vector<Load> reading;
        std::set<std::uint64_t> generations;
        int used = units;
        const auto start = [&] {
            while (const auto load = schedule.next()) {
                EXPECT_TRUE(generations.insert(load->generation).second);
                for (const Load& other : reading) {
                    EXPECT_NE(other.unit, load->unit) << "read twice at a time";
                    EXPECT_TRUE(other.slot == kOwnRoom || other.slot != load->slot);
                }
                reading.push_back(*load);
            }
        };
        const auto arrive = [&] {
            const auto at = reading.begin() + below(static_cast<int>(reading.size()));
            const Load load = *at;
            reading.erase(at);
            schedule.arrived(load, below(5) > 0);
        };
        for (int step = 0; step < 300; ++step) {
            start();
            switch (below(5)) {
                case 0:
                    if (!reading.empty()) arrive();
                    break;
                case 1:
                    used = below(units + 1);
                    schedule.begin(used);
                    break;
                case 2: {
                    const int unit = below(units);
                    if (!schedule.reading(unit)) schedule.set_own_room(unit, below(2) == 0);
                    break;
                }
                default: {
                    if (used == 0) break;
                    const int unit = below(used);
                    int patience = 1000;
                    while (schedule.look(unit) != Stage::ready) {
                        ASSERT_GT(--patience, 0) << "seed " << seed;
                        start();
                        ASSERT_FALSE(reading.empty()) << "nothing is on its way, seed " << seed;
                        arrive();
                    }
                    schedule.pop(unit);
                }
            }
            schedule.check_integrity();
        }
    }
}

TEST(SpreadOrder, IsAPermutationWhoseBeginningsAreSpread) {
    for (int count = 0; count <= 70; ++count) {
        const std::vector<int> order = spread_order(count);
        ASSERT_EQ(order.size(), static_cast<std::size_t>(count));
        std::set<int> some;
        for (int taken = 0; taken < count; ++taken) {
            some.insert(order[static_cast<std::size_t>(taken)]);
            int longest = 0, last = -1;
            for (const int unit : some) {
                longest = std::max(longest, unit - last - 1);
                last = unit;
            }
            longest = std::max(longest, count - last - 1);
            const int even = (count + taken) / (taken + 1);
            EXPECT_LE(longest, 2 * even) << taken + 1 << " of " << count;
        }
        EXPECT_EQ(some.size(), static_cast<std::size_t>(count));
    }
}

}  // namespace
}  // namespace moestro::policy
