// What every planner keeps to, how near the best plan the search comes, and layers that were worked out by hand.
#include "policy/planner.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <string>

#include "base/error.h"
#include "policy/planner_brute_force.h"
#include "policy/random_layers.h"
#include "policy/ranked_work.h"
#include "policy/timeline.h"
#include "support/refusal.h"

namespace moestro::policy {
namespace {

using moestro::testing::refusal;
using testing::BruteForce;
using testing::EveryOrder;
using testing::RandomLayer;
using testing::RandomLayers;

LayerPlan planned(std::string_view name, const LayerWork& work) {
    LayerPlan plan;
    make_planner(name)->plan(work, plan);
    return plan;
}

// What a lane does, in order: "0 1 4", by expert.
std::string lane(const LayerPlan& plan, Lane which) {
    std::string done;
    for (const Operation& one : plan.operations)
        if (one.lane == which) done += (done.empty() ? "" : " ") + std::to_string(one.expert);
    return done;
}

// ---- the contract ---------------------------------------------------------------------------------------------------

// Everything that a plan promises, from its operations alone.
void expect_valid(const LayerPlan& plan, const LayerWork& work, const std::string& what) {
    const LaneCosts& costs = work.costs;
    std::array<double, kLanes> free = {work.clocks.ssd, work.clocks.link, work.clocks.cpu, work.clocks.device};
    std::array<double, kLanes> ends = {};
    std::vector<double> there(work.items.size(), 0);
    std::vector<int> reads(there.size()), transfers(there.size()), computed(there.size());
    double begin = 0;
    bool is_cold = true;
    for (const Operation& one : plan.operations) {
        const auto item = static_cast<std::size_t>(one.item), which = static_cast<std::size_t>(one.lane);
        ASSERT_LT(item, work.items.size()) << what;
        EXPECT_EQ(one.expert, work.items[item].expert) << what;
        EXPECT_GE(one.begin, begin) << what << ": in the order of their begins";
        begin = one.begin;
        EXPECT_GE(one.begin, free[which]) << what << ": the lane is busy";
        EXPECT_GE(one.begin, there[item]) << what << ": the record is not there yet";
        double cost = one.lane == Lane::ssd ? costs.ssd : costs.link;
        const int rows = work.items[item].rows;
        if (one.lane == Lane::device) cost = costs.device.at(rows);
        if (one.lane == Lane::cpu) {
            cost = costs.cpu.at(rows) + (is_cold ? costs.cpu_start : 0);
            is_cold = false;
        }
        EXPECT_DOUBLE_EQ(one.end, one.begin + cost) << what;
        free[which] = ends[which] = there[item] = one.end;
        ++(one.lane == Lane::ssd ? reads : one.lane == Lane::link ? transfers : computed)[item];
        const Where where = work.items[item].where;
        if (one.lane == Lane::cpu) {
            EXPECT_TRUE(where != Where::device || work.items[item].host_copy) << what;
            EXPECT_EQ(transfers[item], 0) << what << ": sent in vain";
        }
        if (one.lane == Lane::device) {
            EXPECT_EQ(transfers[item], where == Where::device ? 0 : 1) << what;
        }
        if (one.lane != Lane::ssd) {
            EXPECT_EQ(reads[item], where == Where::ssd ? 1 : 0) << what;
        }
    }
    for (std::size_t i = 0; i < computed.size(); ++i) EXPECT_EQ(computed[i], 1) << what << ", item " << i;
    EXPECT_EQ(plan.ends, ends) << what;
    EXPECT_DOUBLE_EQ(plan.makespan, std::max(plan.end(Lane::cpu), plan.end(Lane::device))) << what;
}

class EveryPlanner : public ::testing::TestWithParam<std::string_view> {};

TEST_P(EveryPlanner, MakesValidPlans) {
    const auto planner = make_planner(GetParam());
    EXPECT_EQ(planner->name(), GetParam());
    RandomLayers layers(11);
    LayerPlan plan;
    for (int n = 0; n < 2000 && !HasFailure(); ++n) {
        RandomLayer layer = layers.next(layers.below(65));
        if (layers.chance(0.2)) layer.take_device_away();
        planner->plan(layer.work(), plan);
        expect_valid(plan, layer.work(), "layer " + std::to_string(n) + "\n" + table(plan));
    }
}

TEST_P(EveryPlanner, PlansAreAFunctionOfTheWork) {
    const auto used = make_planner(GetParam());
    RandomLayers layers(12);
    LayerPlan plan;
    for (int n = 0; n < 200; ++n) {
        const RandomLayer layer = layers.next(layers.below(65));
        used->plan(layer.work(), plan);
        ASSERT_EQ(table(plan), table(planned(GetParam(), layer.work()))) << "layer " << n;
    }
}

TEST_P(EveryPlanner, NothingToDoTakesNoTime) {
    RandomLayer layer = RandomLayers(13).next(0);
    layer.clocks = {100, 100, 100, 100};
    const LayerPlan plan = planned(GetParam(), layer.work());
    EXPECT_TRUE(plan.operations.empty());
    EXPECT_EQ(plan.makespan, 0);
}

INSTANTIATE_TEST_SUITE_P(All, EveryPlanner, ::testing::ValuesIn(planner_names()),
                         [](const auto& name) { return std::string(name.param); });

TEST(Planner, AnUnknownNameIsRefusedWithTheKnownOnes) {
    const std::string message = refusal([] { make_planner("fastest"); });
    EXPECT_EQ(message, "unknown planner \"fastest\": choose one of hybrid, greedy_01, static, on_demand, cpu");
    EXPECT_EQ(refusal([] { require_planner("fastest"); }), message);
    EXPECT_EQ(refusal([] { require_planner("hybrid"); }), "accepted");
}

// ---- against everything that is possible
// ------------------------------------------------------------------------------

TEST(PlannerBruteForce, LeavesOutNothingThatMatters) {
    RandomLayers layers(21);
    for (int n = 0; n < 600; ++n) {
        RandomLayer layer = layers.next(1 + n % 4);
        if (n % 10 == 0) layer.take_device_away();
        const double least = EveryOrder(layer.work()).least();
        ASSERT_NEAR(BruteForce(layer.work()).least(), least, 1e-9 * least) << "layer " << n;
    }
}

struct Ratios {
    static constexpr std::array<double, 8> kLimits = {1 + 1e-9, 1.01, 1.02, 1.05, 1.1, 1.2, 1.5, 1e9};
    std::array<int, kLimits.size()> counts = {};
    int total = 0;
    double worst = 1;

    void add(double ratio) {
        ++total;
        worst = std::max(worst, ratio);
        for (std::size_t i = 0; i < kLimits.size(); ++i)
            if (ratio <= kLimits[i]) {
                ++counts[i];
                return;
            }
    }
    double share(double limit) const {
        int within = 0;
        for (std::size_t i = 0; i < kLimits.size() && kLimits[i] <= limit; ++i) within += counts[i];
        return static_cast<double>(within) / total;
    }
    void print(const char* name) const {
        std::printf("%-10s optimal %.2f %%, within 1.05 %.2f %%, worst %.3f; layers up to", name, 100 * share(1.001),
                    100 * share(1.05), worst);
        for (std::size_t i = 0; i < kLimits.size(); ++i)
            if (i + 1 < kLimits.size())
                std::printf(" %.2f: %d,", kLimits[i], counts[i]);
            else
                std::printf(" above: %d\n", counts[i]);
    }
};

TEST(PlannerBruteForce, TheSearchIsNearlyAlwaysOptimal) {
    constexpr int kLayersOfASize = 2500, kMostItems = 8;
    RandomLayers layers(22);
    std::vector<std::unique_ptr<Planner>> planners;
    for (const std::string_view name : planner_names()) planners.push_back(make_planner(name));
    std::vector<Ratios> ratios(planners.size());
    LayerPlan plan;
    for (int items = 1; items <= kMostItems; ++items)
        for (int n = 0; n < kLayersOfASize; ++n) {
            const RandomLayer layer = layers.next(items);
            const double least = BruteForce(layer.work()).least();
            for (std::size_t p = 0; p < planners.size(); ++p) {
                planners[p]->plan(layer.work(), plan);
                ASSERT_GE(plan.makespan, least * (1 - 1e-9)) << planners[p]->name() << " beats everything possible";
                ratios[p].add(plan.makespan / least);
            }
        }
    for (std::size_t p = 0; p < planners.size(); ++p) ratios[p].print(std::string(planners[p]->name()).c_str());
    const Ratios& hybrid = ratios[0];
    ASSERT_EQ(planners[0]->name(), "hybrid");
    EXPECT_GE(hybrid.share(1.001), 0.99);
    EXPECT_GE(hybrid.share(1.05), 0.999);
    EXPECT_LE(hybrid.worst, 1.2);
}

TEST(PlannerBruteForce, WithoutADeviceTheSearchIsOptimal) {
    RandomLayers layers(23);
    for (int n = 0; n < 1000; ++n) {
        RandomLayer layer = layers.next(1 + n % 7);
        layer.take_device_away();
        const double least = BruteForce(layer.work()).least();
        ASSERT_NEAR(planned("hybrid", layer.work()).makespan, least, 1e-9 * least) << "layer " << n;
    }
}

// The search counts without drawing up a plan; the plan then takes as long as it counted.
TEST(RankedWork, CountsAsTheTimelineDoes) {
    RandomLayers layers(24);
    RankedWork ranked;
    LaneOrders orders;
    Timeline timeline;
    LayerPlan plan;
    for (int n = 0; n < 2000; ++n) {
        const RandomLayer layer = layers.next(1 + layers.below(40));
        ranked.set(layer.work());
        Sides sides;
        Load load{0, 0, 0, 0, 0};
        for (int rank = 0; rank < ranked.count(); ++rank) {
            sides.on_cpu.push_back(!ranked.bound(rank) && layers.chance(0.5));
            if (rank >= ranked.hosts()) sides.link.push_back(rank);
            load.device += ranked.device(rank);
            ++load.on_device;
            load.sent += rank >= ranked.hosts();
        }
        for (int rank = 0; rank < ranked.count(); ++rank)
            if (sides.on_cpu[static_cast<std::size_t>(rank)]) ranked.change(load, rank, true);
        const Finish finish = ranked.finish(sides);
        ranked.orders(sides, orders);
        timeline.run(layer.work(), orders, plan);
        ASSERT_NEAR(finish.cpu, plan.end(Lane::cpu), 1e-9 * plan.makespan) << "layer " << n;
        ASSERT_NEAR(finish.device, plan.end(Lane::device), 1e-9 * plan.makespan) << "layer " << n;
        ASSERT_LE(std::max(ranked.least(load), ranked.least()), finish.makespan() * (1 + 1e-9)) << "layer " << n;
        ASSERT_NEAR(load.cpu, finish.load.cpu, 1e-6) << "layer " << n;
        ASSERT_EQ(load.sent, finish.load.sent) << "layer " << n;
    }
}

// ---- by hand
// ----------------------------------------------------------------------------------------------------------

// Whole numbers: the CPU takes `cpu` per row, the device as long for any number of rows.
LaneCosts costs(double cpu, double device, double link, double ssd) {
    LaneCosts made;
    made.cpu = {0, cpu};
    made.device = {device, 0};
    made.link = link;
    made.ssd = ssd;
    made.has_device = true;
    return made;
}

// HybriMoE's figure 5: the device lacks A, B (one row each) and C (three), and has D (four rows) and E (one); the link
// takes three units, the CPU one per row. The figure does not say what the device takes; two leaves E to the CPU.
TEST(Hybrid, DoesWhatTheFigureOfHybriMoEShows) {
    constexpr int kA = 0, kB = 1, kC = 2, kD = 3, kE = 4;
    const std::vector<WorkItem> items = {{kA, 1, Where::host},
                                         {kB, 1, Where::host},
                                         {kC, 3, Where::host},
                                         {kD, 4, Where::device},
                                         {kE, 1, Where::device}};
    const LayerPlan plan = planned("hybrid", {items, costs(1, 2, 3, 0), {}});
    EXPECT_EQ(lane(plan, Lane::cpu), "0 1 4") << "A, B, and then E, which the device has";
    EXPECT_EQ(lane(plan, Lane::link), "2") << "C meanwhile";
    EXPECT_EQ(lane(plan, Lane::device), "3 2") << "D, then C";
    EXPECT_EQ(plan.end(Lane::cpu), 3);
    EXPECT_EQ(plan.end(Lane::link), 3);
    EXPECT_EQ(plan.makespan, 5);
    EXPECT_EQ(plan.makespan, BruteForce({items, costs(1, 2, 3, 0), {}}).least());
}

TEST(Hybrid, ReadsFirstWhatHasTheLongerWayToGo) {
    // Expert 1 is for the device (read until 10, sent until 15, computed until 17); the CPU takes 0 at 20 until 22. The
    // other way round the device ends at 27.
    const std::vector<WorkItem> items = {{0, 1, Where::ssd}, {1, 30, Where::ssd}};
    const LayerPlan plan = planned("hybrid", {items, costs(2, 2, 5, 10), {}});
    EXPECT_EQ(lane(plan, Lane::ssd), "1 0");
    EXPECT_EQ(lane(plan, Lane::device), "1");
    EXPECT_EQ(lane(plan, Lane::cpu), "0");
    EXPECT_EQ(plan.makespan, 22);
}

TEST(Hybrid, ABusyLinkLeavesTheWorkToTheCpu) {
    const std::vector<WorkItem> items = {{0, 8, Where::host}};
    const LaneCosts lanes = costs(2, 1, 5, 10);
    EXPECT_EQ(lane(planned("hybrid", {items, lanes, {}}), Lane::device), "0") << "6 rather than 16";
    LaneClocks busy;
    busy.link = 11;
    const LayerPlan plan = planned("hybrid", {items, lanes, busy});
    EXPECT_EQ(lane(plan, Lane::cpu), "0") << "16 rather than 17";
    EXPECT_EQ(plan.makespan, 16);
}

TEST(Hybrid, TheCpuIsWarmedUpByWhatItHas) {
    // Alone, the expert that is read ends at 10 + 8 + 1 on the CPU, and at 10 + 5 + 1 on the device. If the CPU takes
    // over another one (until 9) it is warm when the read ends, and done at 11.
    const std::vector<WorkItem> items = {{0, 1, Where::ssd}, {1, 1, Where::device}};
    LaneCosts lanes = costs(1, 1, 5, 10);
    lanes.cpu_start = 8;
    const LayerPlan plan = planned("hybrid", {items, lanes, {}});
    EXPECT_EQ(lane(plan, Lane::cpu), "1 0");
    EXPECT_EQ(plan.makespan, 11);
}

TEST(Hybrid, TheLinkMayWaitForAManyRowRecord) {
    // A device that is slow with many rows: what is read should be sent before what is in host memory, though the link
    // stands still until it has been read.
    std::vector<WorkItem> items = {{0, 20, Where::ssd}, {1, 1, Where::host}, {2, 1, Where::host}, {3, 1, Where::host}};
    LaneCosts lanes = costs(1000, 0, 3, 1);
    lanes.device = {0, 1};
    const LayerPlan plan = planned("hybrid", {items, lanes, {}});
    EXPECT_EQ(lane(plan, Lane::link), "0 1 2 3");
    EXPECT_EQ(plan.makespan, 1 + 3 + 20 + 3);
}

TEST(Hybrid, WithoutADeviceItComputesWhatIsThereAndThenWhatArrives) {
    const std::vector<WorkItem> items = {
        {0, 1, Where::ssd}, {1, 2, Where::host}, {2, 1, Where::ssd}, {3, 2, Where::host}, {4, 1, Where::ssd}};
    LaneCosts lanes = costs(2, 0, 0, 10);
    lanes.has_device = false;
    lanes.cpu_start = 1;
    const LayerPlan plan = planned("hybrid", {items, lanes, {}});
    EXPECT_EQ(lane(plan, Lane::ssd), "0 2 4");
    EXPECT_EQ(lane(plan, Lane::cpu), "1 3 0 2 4");
    EXPECT_EQ(lane(plan, Lane::link) + lane(plan, Lane::device), "");
    EXPECT_EQ(plan.makespan, 32) << "9 with what is there, then 12, 22 and 32";
}

struct Split {
    const std::vector<WorkItem> items = {{10, 4, Where::device},
                                         {11, 2, Where::host},
                                         {12, 8, Where::ssd},
                                         {13, 1, Where::device},
                                         {14, 3, Where::host}};
    LayerWork work() const { return {items, costs(2, 1, 3, 10), {}}; }
};

TEST(StaticSplit, LeavesEveryExpertWhereItIs) {
    const LayerPlan plan = planned("static", Split().work());
    EXPECT_EQ(lane(plan, Lane::device), "10 13");
    EXPECT_EQ(lane(plan, Lane::cpu), "11 14 12");
    EXPECT_EQ(lane(plan, Lane::link), "");
    EXPECT_EQ(plan.end(Lane::device), 2);
    EXPECT_EQ(plan.makespan, 26) << "4, 10, and 16 more";
}

TEST(OnDemand, SendsWhateverTheDeviceLacks) {
    const LayerPlan plan = planned("on_demand", Split().work());
    EXPECT_EQ(lane(plan, Lane::device), "10 13 11 14 12");
    EXPECT_EQ(lane(plan, Lane::link), "11 14 12");
    EXPECT_EQ(lane(plan, Lane::cpu), "");
    EXPECT_EQ(plan.makespan, 14) << "read until 10, sent until 13";
}

TEST(OnDemand, WithoutADeviceTheCpuComputesInOrder) {
    RandomLayer layer{Split().items, Split().work().costs, {}};
    layer.take_device_away();
    const LayerPlan plan = planned("on_demand", layer.work());
    EXPECT_EQ(lane(plan, Lane::cpu), "10 11 13 14 12");
    EXPECT_EQ(plan.makespan, 36) << "8, 12, 14, 20 and 36: it was read in the meantime";
}

TEST(Greedy01, GivesEachExpertToTheSideThatThenEndsSooner) {
    // CPU and device with the link: 12: 16 and 4, 10: 8 and 1, 14: 6 and 4, 13: 2 and 1, 11: 4 and 4. In the order of
    // differences: 12 to the device (4), 10 (5 rather than 8), 14 to the CPU (6 rather than 9), 13 to the device (6
    // rather than 8), 11 to the CPU (both 10: the device).
    const LayerPlan plan = planned("greedy_01", Split().work());
    EXPECT_EQ(lane(plan, Lane::cpu), "14");
    EXPECT_EQ(lane(plan, Lane::device), "10 13 11 12");
    EXPECT_EQ(plan.makespan, 14);
}

TEST(Timeline, RefusesOrdersThatCannotBe) {
    const std::vector<WorkItem> items = {{0, 1, Where::ssd}, {1, 1, Where::device, false}};
    const LayerWork work{items, costs(1, 1, 1, 1), {}};
    LayerPlan plan;
    const auto run = [&](const LaneOrders& orders) { Timeline().run(work, orders, plan); };
    run({{0}, {0}, {}, {1, 0}});
    run({{0}, {}, {0}, {1}});
    for (const LaneOrders& orders : {LaneOrders{{}, {}, {0}, {1}},        // not read
                                     LaneOrders{{0}, {}, {}, {1, 0}},     // not sent
                                     LaneOrders{{0}, {0}, {0}, {1}},      // sent in vain
                                     LaneOrders{{0}, {}, {0}, {}},        // one is not computed
                                     LaneOrders{{0}, {0}, {0}, {1, 0}},   // one is computed twice
                                     LaneOrders{{0, 0}, {}, {0}, {1}},    // read twice
                                     LaneOrders{{0}, {}, {0, 1}, {}}}) {  // it has no copy in host memory
        EXPECT_THROW(run(orders), Error);
    }
}

TEST(LayerPlan, IsPrintedAsATable) {
    LaneCosts lanes = costs(2500, 100, 3000, 10000);
    const std::vector<WorkItem> items = {{7, 1, Where::ssd}, {120, 2, Where::device}};
    EXPECT_EQ(table(planned("static", {items, lanes, {}})),
              "lane     expert     begin us       end us\n"
              "ssd           7          0.0         10.0\n"
              "device      120          0.0          0.1\n"
              "cpu           7         10.0         12.5\n"
              "all                                  12.5\n");
}

}  // namespace
}  // namespace moestro::policy
