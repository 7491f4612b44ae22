#include "exec/live_costs.h"

#include <gtest/gtest.h>

namespace moestro::exec {
namespace {

policy::LaneCosts measured(double ssd) {
    policy::LaneCosts costs;
    costs.cpu = {100, 10};
    costs.cpu_start = 7;
    costs.ssd = ssd;
    return costs;
}

TEST(LiveCosts, BeginWithWhatWasMeasured) {
    const LiveCosts costs(measured(8192), 4096);
    EXPECT_DOUBLE_EQ(costs.read_ns(4096), 8192);
    EXPECT_DOUBLE_EQ(costs.read_ns(1), 2);
    const policy::LaneCosts now = costs.of(8192);
    EXPECT_DOUBLE_EQ(now.ssd, 16384) << "of a record of that size";
    EXPECT_DOUBLE_EQ(now.cpu.fixed, 100);
    EXPECT_DOUBLE_EQ(now.cpu.per_unit, 10);
    EXPECT_DOUBLE_EQ(now.cpu_start, 7);
    EXPECT_DOUBLE_EQ(costs.layer_ns(), 0);
    EXPECT_DOUBLE_EQ(costs.demand_share(), 0);
}

TEST(LiveCosts, ComputingMovesByAThirtySecond) {
    LiveCosts costs(measured(0), 4096);
    costs.computed(2, 5, 2 * (2 * 100 + 5 * 10));  // twice what was said
    EXPECT_DOUBLE_EQ(costs.of(4096).cpu.fixed, 100 * (1 + 1.0 / 32));
    EXPECT_DOUBLE_EQ(costs.of(4096).cpu.per_unit, 10 * (1 + 1.0 / 32));
    for (int i = 0; i < 1000; ++i) costs.computed(1, 1, 55);
    EXPECT_NEAR(costs.of(4096).cpu.fixed, 50, 1e-6) << "in the end it is what it takes";
}

TEST(LiveCosts, TheFirstIsTakenWhereNothingWasMeasured) {
    LiveCosts costs;
    EXPECT_DOUBLE_EQ(costs.read_ns(4096), 4096) << "a guess";
    costs.computed(2, 4, 300);
    EXPECT_DOUBLE_EQ(costs.of(4096).cpu.fixed, 150);
    costs.read(4096, 3 * 4096);
    EXPECT_DOUBLE_EQ(costs.read_ns(4096), 3 * 4096);
    costs.read(8192, 35 * 8192);
    EXPECT_DOUBLE_EQ(costs.read_ns(4096), 4 * 4096) << "3 + (35 - 3) / 32";
}

TEST(LiveCosts, LayersAndTheShareOfThemThatIsWaitedFor) {
    LiveCosts costs;
    costs.layer(640, 320);
    EXPECT_DOUBLE_EQ(costs.layer_ns(), 640) << "the first is taken";
    EXPECT_DOUBLE_EQ(costs.demand_share(), 0.5 / 32) << "a disk is at rest until it was seen to be busy";
    costs.layer(320, 0);
    EXPECT_DOUBLE_EQ(costs.layer_ns(), 630);
    EXPECT_DOUBLE_EQ(costs.demand_share(), 0.5 / 32 * (31.0 / 32));
    for (int i = 0; i < 1000; ++i) costs.layer(100, 900);
    EXPECT_NEAR(costs.demand_share(), 1, 1e-9) << "never more than all of it";
    EXPECT_LE(costs.demand_share(), 1);
}

TEST(LiveCosts, NothingIsLearntFromNothing) {
    LiveCosts costs(measured(4096), 4096);
    costs.computed(0, 0, 50);
    costs.computed(1, 1, 0);
    costs.read(0, 50);
    costs.layer(0, 0);
    EXPECT_DOUBLE_EQ(costs.of(4096).cpu.fixed, 100);
    EXPECT_DOUBLE_EQ(costs.read_ns(4096), 4096);
    EXPECT_DOUBLE_EQ(costs.layer_ns(), 0);
    EXPECT_DOUBLE_EQ(costs.demand_share(), 0);
}

}  // namespace
}  // namespace moestro::exec
