// The tables of `transition` on traces whose rule is known.
#include "policy/transition.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

#include "policy/predictions.h"

namespace moestro::policy {
namespace {

using testing::every_layer;
using testing::of_layer;
using testing::precision;
using testing::recall;
using testing::Row;
using testing::Steps;

constexpr int kLayers = 5, kExperts = 16;

std::vector<std::vector<std::int32_t>> permutations(unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::vector<std::int32_t>> all(kLayers, std::vector<std::int32_t>(kExperts));
    for (auto& one : all) {
        std::iota(one.begin(), one.end(), 0);
        std::shuffle(one.begin(), one.end(), random);
    }
    return all;
}

PredictorSettings settings(std::span<const Row> learnt) {
    PredictorSettings made =
        testing::settings_of(every_layer(kLayers, kExperts), static_cast<int>(learnt[0].path[0].size()));
    made.trace = testing::table_of(learnt);
    return made;
}

TEST(Transition, AChainOfExpertsIsForeseenFromItsFirst) {
    // One expert a layer: what layer l + 1 uses is a permutation of what layer l does. Tokens are not known.
    const auto next = permutations(1);
    const auto chain = [&](std::int32_t first) {
        Row row;
        for (std::size_t layer = 0; layer < kLayers; ++layer) {
            row.path.push_back({first});
            first = next[layer][static_cast<std::size_t>(first)];
        }
        return row;
    };
    std::vector<Row> learnt;
    for (int i = 0; i < 25 * kExperts; ++i) learnt.push_back(chain(i % kExperts));
    const PredictorSettings made = settings(learnt);
    const auto predictor = make_predictor("transition", made);
    Steps steps(*predictor, made);
    for (std::int32_t first = 0; first < kExperts; ++first) {
        const Row row = chain(first);
        const auto hints = steps.run(row);
        EXPECT_TRUE(hints.at(-1).empty()) << "nothing is known yet";
        for (int layer = 0; layer + 1 < kLayers; ++layer) {
            EXPECT_EQ(recall(hints.at(layer), layer + 1, row.path[static_cast<std::size_t>(layer + 1)]), 1.0);
            EXPECT_EQ(hints.at(layer).size(), 1u);
        }
    }
    const std::vector<Row> both = {chain(3), chain(8)};
    for (const auto& [layer, hints] : steps.run(both)) EXPECT_EQ(hints.size(), layer >= 0 && layer < 4 ? 2u : 0u);
}

TEST(Transition, ATokenIsForeseenBeforeTheFirstLayer) {
    // Three experts a layer, drawn once for each of 40 tokens.
    std::mt19937 random(2);
    std::vector<Row> vocabulary;
    for (std::int32_t token = 0; token < 40; ++token) {
        vocabulary.push_back({1000 * token, {}});
        for (auto& all : permutations(random())) vocabulary.back().path.push_back({all[0], all[1], all[2]});
    }
    std::vector<Row> learnt;
    for (int i = 0; i < 12; ++i) learnt.insert(learnt.end(), vocabulary.begin(), vocabulary.end());
    const PredictorSettings made = settings(learnt);
    const auto predictor = make_predictor("transition", made);
    Steps steps(*predictor, made);
    for (const Row& row : vocabulary)
        for (const auto& [layer, hints] : steps.run(row))
            for (int later = layer + 1; later < std::min(kLayers, layer + 4); ++later) {
                const auto& used = row.path[static_cast<std::size_t>(later)];
                EXPECT_EQ(recall(hints, later, used), 1.0) << "token " << row.token << ", layer " << later;
                EXPECT_EQ(precision(hints, later, used), 1.0) << "token " << row.token << ", layer " << later;
            }
    const Row unknown{7, vocabulary[0].path};
    EXPECT_TRUE(steps.run(unknown).at(-1).empty());
    const std::vector<Row> both = {vocabulary[0], unknown};
    EXPECT_EQ(steps.run(both).at(-1).size(), 9u) << "of the one that is known, in three layers";
}

TEST(Transition, BothOpinionsAreWeighedByTheirOdds) {
    // Two layers of two experts. Token 5 used expert 0 in layer 0 and 0 in layer 1, three times; another token used 1
    // and then 1 five times, and once 1 and then 0. Now token 5 uses 1.
    std::vector<Row> learnt(3, Row{5, {{0}, {0}}});
    learnt.insert(learnt.end(), 5, Row{6, {{1}, {1}}});
    learnt.push_back({6, {{1}, {0}}});
    PredictorSettings made = testing::settings_of(every_layer(2, 2), 1);
    made.trace = testing::table_of(learnt);
    const auto predictor = make_predictor("transition", made);
    const auto hints = of_layer(Steps(*predictor, made).run(Row{5, {{1}, {1}}}).at(0), 1);

    const double popular = (4 + 0.5) / 10;                // expert 0 in layer 1, with one token that uses both equally
    const double by_token = (3 + 2 * popular) / (3 + 2);  // two more that use it as all do
    const double after = (1 + 2 * popular) / (6 + 2);
    const auto odds = [](double p) { return p / (1 - p); };
    const double both = odds(by_token) * odds(after) / odds(popular);
    ASSERT_EQ(hints.size(), 2u);
    EXPECT_NEAR(hints.at(0), both / (1 + both), 1e-5);
    EXPECT_NEAR(hints.at(1), 1 / (1 + both), 1e-5) << "of two, one is used";
}

TEST(Transition, ARowHintsAtItsBestAlone) {
    // A token that used every one of six experts equally often, one at a time.
    std::vector<Row> learnt;
    for (std::int32_t i = 0; i < 600; ++i) learnt.push_back({1, std::vector(kLayers, std::vector{i % 6})});
    const PredictorSettings made = settings(learnt);
    const auto predictor = make_predictor("transition", made);
    EXPECT_EQ(Steps(*predictor, made).run(learnt[0]).at(-1).size(), 3u * kTransitionShare) << "in three layers";
}

}  // namespace
}  // namespace moestro::policy
