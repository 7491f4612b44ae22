#include "engine/step_log.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "support/toy_model.h"

namespace moestro::engine {
namespace {

struct World {
    testing::ToyModel model{{}};
    store::Catalog catalog{model.packed(), model.open(true)};
    StepLog log;

    std::vector<ExpertId> replay(std::vector<std::uint8_t> accepted = {}) {
        log.check_accepted(accepted);
        std::vector<ExpertId> used;
        log.replay(catalog, accepted, [&](ExpertId id) { used.push_back(id); });
        return used;
    }
};

TEST(StepLog, ReplaysByRowThenLayerThenId) {
    World world;
    world.log.begin(3, {});
    const std::int32_t deep[] = {5, 0, 4, 3, 2, 1}, first[] = {2}, rest[] = {1, 0};
    world.log.add(world.catalog, 5, deep, 3, 2);  // layers in any order
    world.log.add(world.catalog, 1, first, 1, 1);
    world.log.add(world.catalog, 1, rest, 2, 1);  // rows in several submits
    EXPECT_EQ(world.replay(),
              (std::vector<ExpertId>{{1, 2}, {5, 0}, {5, 5}, {1, 1}, {5, 3}, {5, 4}, {1, 0}, {5, 1}, {5, 2}}));
}

TEST(StepLog, OnlyTentativeRowsCanBeRejected) {
    World world;
    const std::vector<std::uint8_t> tentative{0, 1, 1};
    world.log.begin(3, tentative);
    const std::int32_t ids[] = {0, 1, 2};
    world.log.add(world.catalog, 3, ids, 3, 1);
    EXPECT_EQ(world.replay({1, 0, 1}), (std::vector<ExpertId>{{3, 0}, {3, 2}}));
    EXPECT_THROW(world.replay({0, 1, 1}), Error);
    EXPECT_THROW(world.replay({1, 1}), Error);
}

TEST(StepLog, AStepHasItsRowsOncePerLayer) {
    World world;
    EXPECT_THROW(world.log.check(world.catalog, 1, 1), Error) << "no step is open";
    EXPECT_THROW(world.log.begin(0, {}), Error);
    EXPECT_THROW(world.log.begin(2, std::vector<std::uint8_t>{1}), Error);
    world.log.begin(2, {});
    EXPECT_THROW(world.log.begin(2, {}), Error);
    const std::int32_t ids[] = {3, 4};
    world.log.check(world.catalog, 1, 1);
    world.log.add(world.catalog, 1, ids, 1, 1);
    EXPECT_THROW(world.log.check(world.catalog, 1, 2), Error);
    EXPECT_THROW(world.log.add(world.catalog, 1, ids, 1, 2), Error) << "top_k does not change inside a step";
    EXPECT_NO_THROW(world.log.check(world.catalog, 3, 2));
    world.log.end();
    world.log.begin(1, {});
    EXPECT_TRUE(world.replay().empty()) << "an earlier step is forgotten";
}

}  // namespace
}  // namespace moestro::engine
