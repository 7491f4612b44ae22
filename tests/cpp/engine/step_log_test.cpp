#include "engine/step_log.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

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
        rows.clear();
        scored.clear();
        log.replay(
            catalog, accepted, [&](int row) { rows.push_back(row); },
            [&](int layer, std::span<const policy::ScoredExpert> best) {
                scored.push_back({layer, {best.begin(), best.end()}});
            },
            [&](ExpertId id) { used.push_back(id); });
        return used;
    }

    std::vector<int> rows;  // of the last replay
    std::vector<std::pair<int, std::vector<policy::ScoredExpert>>> scored;
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

TEST(StepLog, KeepsWhatRoutersThoughtOfTheBest) {
    World world;
    const int experts = world.catalog.layer(1).experts();
    ASSERT_GE(experts, 5);
    world.log.begin(3, std::vector<std::uint8_t>{0, 1, 0});
    const std::int32_t ids[] = {2, 0, 1};
    const float weights[] = {0.75f, 0.5f, 0.25f};
    world.log.add(world.catalog, 1, ids, 3, 1);
    std::vector<float> logits(static_cast<std::size_t>(3 * experts), -1.0f);
    const auto logit = [&](int row, int expert) -> float& {
        return logits[static_cast<std::size_t>(row * experts + expert)];
    };
    logit(0, 2) = 3;
    logit(0, 4) = 2;
    logit(2, 1) = logit(2, 3) = 1;  // a tie
    world.log.add_scores(world.catalog, 1, logits.data(), ids, weights, 3, 1);
    world.log.add(world.catalog, 3, ids, 3, 1);
    world.log.add_scores(world.catalog, 3, nullptr, ids, weights, 3, 1);
    world.replay({1, 0, 1});
    EXPECT_EQ(world.rows, (std::vector<int>{0, 2}));
    ASSERT_EQ(world.scored.size(), 4u);
    const auto& [layer, best] = world.scored[0];
    EXPECT_EQ(layer, 1);
    ASSERT_EQ(best.size(), 2u) << "twice as many as are chosen";
    const double sum = std::exp(3.0) + std::exp(2.0) + (experts - 2) * std::exp(-1.0);
    EXPECT_EQ(best[0].expert, 2);
    EXPECT_NEAR(best[0].score, std::exp(3.0) / sum, 1e-6);
    EXPECT_EQ(best[1].expert, 4);
    EXPECT_NEAR(best[1].score, std::exp(2.0) / sum, 1e-6);
    EXPECT_EQ(world.scored[1].first, 3);
    ASSERT_EQ(world.scored[1].second.size(), 1u) << "the chosen ones, where no logits are given";
    EXPECT_EQ(world.scored[1].second[0].score, 0.75f);
    EXPECT_EQ(world.scored[2].second[0].expert, 1) << "ties to the lower id";
    EXPECT_EQ(world.scored[2].second[1].expert, 3);
    world.log.end();
    world.log.begin(1, {});
    world.log.add(world.catalog, 1, ids, 1, 1);
    world.replay();
    EXPECT_TRUE(world.scored.empty()) << "an earlier step is forgotten";
}

TEST(StepLog, WhatALaterRouterForeseesBeginsWithWhatItWouldChoose) {
    World world;
    world.log.begin(3, {});
    // The second row's group limits kept it from its best expert, 5, and from 2.
    const float logits[] = {0, 1, 2, 3, 4, 5, /**/ 4, 0, 2, 1, 3, 5};
    const std::int32_t ids[] = {5, 4, /**/ 0, 4};
    const policy::Thought first = world.log.add_ahead(world.catalog, 5, 2, logits, ids, 2, 2);
    EXPECT_EQ(first.rows, 2);
    EXPECT_EQ(first.kept, 4);
    EXPECT_EQ(first.top_k, 2);
    const auto experts = [](std::span<const policy::ScoredExpert> best) {
        std::vector<std::int32_t> all;
        for (const policy::ScoredExpert& one : best) all.push_back(one.expert);
        return all;
    };
    EXPECT_EQ(experts(first.of(0)), (std::vector<std::int32_t>{5, 4, 3, 2}));
    EXPECT_EQ(experts(first.of(1)), (std::vector<std::int32_t>{0, 4, 5, 2}));
    double sum = 0;
    for (int expert = 0; expert < 6; ++expert) sum += std::exp(expert);
    EXPECT_NEAR(first.of(1)[0].score, std::exp(4) / sum, 1e-6) << "of all experts";
    EXPECT_NEAR(first.of(1)[2].score, std::exp(5) / sum, 1e-6);
    const std::vector<policy::ScoredExpert> before(first.best.begin(), first.best.end());
    const std::int32_t more[] = {1, 0};
    const policy::Thought rest = world.log.add_ahead(world.catalog, 5, 2, logits, more, 1, 2);
    EXPECT_EQ(experts(rest.best), (std::vector<std::int32_t>{1, 0, 5, 4})) << "the step's next row";
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(first.best[i].expert, before[i].expert) << "still valid";
    // Of few experts no more are kept than there are.
    const std::int32_t five[] = {0, 1, 2, 3, 4};
    EXPECT_EQ(world.log.add_ahead(world.catalog, 3, 1, logits, five, 1, 5).kept, 6);
}

TEST(StepLog, TokensAreKeptOrUnknown) {
    World world;
    EXPECT_THROW(world.log.begin(2, {}, std::vector<std::int32_t>{1}), Error);
    world.log.begin(2, {}, std::vector<std::int32_t>{8, 9});
    EXPECT_EQ(std::vector<std::int32_t>(world.log.tokens().begin(), world.log.tokens().end()),
              (std::vector<std::int32_t>{8, 9}));
    world.log.end();
    world.log.begin(3, {});
    EXPECT_EQ(std::vector<std::int32_t>(world.log.tokens().begin(), world.log.tokens().end()),
              (std::vector<std::int32_t>{-1, -1, -1}));
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
