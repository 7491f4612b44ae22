// The cross-layer gate and the pre-gate on thoughts that are planted: right, wrong, and nearly right.
#include "policy/next_gate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "policy/predictions.h"

namespace moestro::policy {
namespace {

using testing::every_layer;
using testing::of_layer;
using testing::recall;
using testing::Row;
using testing::Steps;
using testing::Thinking;

constexpr int kLayers = 5, kExperts = 12, kTopK = 3;

// Row `number` of a step: in layer l the experts from 3 l + number on.
Row row(int number) {
    Row made{number, {}};
    for (int layer = 0; layer < kLayers; ++layer) {
        made.path.emplace_back();
        for (int i = 0; i < kTopK; ++i) made.path.back().push_back((3 * layer + number + i) % kExperts);
    }
    return made;
}

class LooksAhead : public ::testing::TestWithParam<const char*> {
  protected:
    const PredictorSettings settings_ = testing::settings_of(every_layer(kLayers, kExperts), kTopK);
    const std::unique_ptr<Predictor> predictor_ = make_predictor(GetParam(), settings_);
};

TEST_P(LooksAhead, ForeseesAllThatRoutersThinkRightOf) {
    EXPECT_EQ(predictor_->lookahead(), 1);
    const std::vector<Row> rows = {row(0), row(4)};
    const auto hints = Steps(*predictor_, settings_).run(rows, [&](std::size_t position) {
        return std::vector{rows[0].path[position], rows[1].path[position]};
    });
    EXPECT_TRUE(hints.at(-1).empty() && hints.at(kLayers - 1).empty()) << "nobody has thought of these";
    for (int layer = 0; layer + 1 < kLayers; ++layer)
        for (const Row& one : rows) {
            const auto& used = one.path[static_cast<std::size_t>(layer + 1)];
            EXPECT_EQ(recall(hints.at(layer), layer + 1, used), 1.0);
            EXPECT_EQ(hints.at(layer).size(), 2u * kTopK) << "all of one layer, and nothing else is";
            for (const auto& [expert, probability] : of_layer(hints.at(layer), layer + 1))
                EXPECT_EQ(probability, 1.0f) << "nothing is known of what nearly was";
        }
}

TEST_P(LooksAhead, ForeseesNothingThatRoutersThinkWrongOf) {
    const Row one = row(0);
    const auto hints = Steps(*predictor_, settings_).run(one, [&](std::size_t position) {
        return std::vector<std::vector<std::int32_t>>{row(kTopK).path[position]};
    });
    for (int layer = 0; layer + 1 < kLayers; ++layer) {
        EXPECT_EQ(recall(hints.at(layer), layer + 1, one.path[static_cast<std::size_t>(layer + 1)]), 0.0);
        EXPECT_EQ(hints.at(layer).size(), static_cast<std::size_t>(kTopK));
    }
}

TEST_P(LooksAhead, AThoughtIsOfItsLayerAndItsStep) {
    const Thinking thinking({{1, 2, 3}}, kTopK);
    std::vector<Hint> hints;
    predictor_->on_step({});
    predictor_->on_ahead(0, 2, thinking.thought);
    predictor_->predict(0, {}, hints);
    EXPECT_TRUE(hints.empty()) << "not of the next layer";
    predictor_->on_ahead(0, 1, thinking.thought);
    predictor_->predict(1, {}, hints);
    EXPECT_TRUE(hints.empty()) << "that layer has begun";
    predictor_->predict(0, {}, hints);
    EXPECT_EQ(hints.size(), 3u);
    hints.clear();
    predictor_->on_step({});
    predictor_->predict(0, {}, hints);
    EXPECT_TRUE(hints.empty()) << "of an earlier step";
}

INSTANTIATE_TEST_SUITE_P(Both, LooksAhead, ::testing::Values("next_gate", "pre_gated"),
                         [](const auto& name) { return name.param; });

std::map<std::int32_t, float> hints_for(const char* name, const Thought& thought) {
    const auto predictor = make_predictor(name, testing::settings_of(every_layer(2, kExperts), thought.top_k));
    std::vector<Hint> hints;
    predictor->on_step({});
    predictor->on_ahead(0, 1, thought);
    predictor->predict(0, {}, hints);
    return of_layer(hints, 1);
}

TEST(NextGate, NearMissesCountByTheirDistanceFromTheBorder) {
    // Two are chosen; the border is sqrt(0.125 * 0.08) = 0.1.
    const std::vector<ScoredExpert> best = {{7, 0.2f}, {2, 0.125f}, {5, 0.08f}, {1, 0.05f}};
    const auto hints = hints_for("next_gate", {best, 1, 4, 2});
    ASSERT_EQ(hints.size(), 3u) << "one ninth is less than a hint is worth";
    EXPECT_NEAR(hints.at(7), 8.0f / 9, 1e-6);
    EXPECT_NEAR(hints.at(2), 125.0f / 189, 1e-6);
    EXPECT_NEAR(hints.at(5), 64.0f / 189, 1e-6);
}

TEST(NextGate, OneRowIsEnough) {
    const std::vector<ScoredExpert> best = {{7, 0.2f}, {2, 0.125f}, {5, 0.08f}, {1, 0.05f},
                                            {2, 0.2f}, {7, 0.125f}, {3, 0.08f}, {1, 0.05f}};
    const auto hints = hints_for("next_gate", {best, 2, 4, 2});
    ASSERT_EQ(hints.size(), 4u) << "and no row has enough to say of 1";
    EXPECT_NEAR(hints.at(7), 1 - (1 - 8.0f / 9) * (1 - 125.0f / 189), 1e-6);
    EXPECT_NEAR(hints.at(2), 1 - (1 - 8.0f / 9) * (1 - 125.0f / 189), 1e-6);
    EXPECT_NEAR(hints.at(5), 64.0f / 189, 1e-6);
    EXPECT_NEAR(hints.at(3), 64.0f / 189, 1e-6);
}

TEST(NextGate, ARouterThatIsSureLeavesNoNearMiss) {
    const std::vector<ScoredExpert> best = {{7, 0.6f}, {2, 0.4f}, {5, 0.0f}, {1, 0.0f}};
    EXPECT_EQ(hints_for("next_gate", {best, 1, 4, 2}), (std::map<std::int32_t, float>{{7, 1.0f}, {2, 1.0f}}));
}

TEST(PreGated, WhatWasChosenIsExactAndNothingElseIs) {
    const std::vector<ScoredExpert> best = {{7, 0.3f}, {2, 0.26f}, {5, 0.25f}, {1, 0.19f},
                                            {4, 0.3f}, {7, 0.26f}, {5, 0.25f}, {1, 0.19f}};
    EXPECT_EQ(hints_for("pre_gated", {best, 2, 4, 2}),
              (std::map<std::int32_t, float>{{2, 1.0f}, {4, 1.0f}, {7, 1.0f}}));
}

}  // namespace
}  // namespace moestro::policy
