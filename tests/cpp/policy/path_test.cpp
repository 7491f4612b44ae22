// `path` with weights written by hand: a map from tokens to paths, the gate's correction of it, and the context.
#include "policy/path.h"

#include <gtest/gtest.h>

#include <cmath>
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

constexpr int kLayers = 5, kExperts = 16, kTopK = 2, kTokens = 4;
constexpr float kSure = 20;  // sigmoid(kSure / 2) is 1 - 5e-5

std::vector<Row> vocabulary() {
    std::mt19937 random(6);
    std::vector<Row> rows;
    for (std::int32_t token = 0; token < kTokens; ++token) {
        rows.push_back({token, {}});
        // Token t has the experts 4 t .. 4 t + 3 to itself.
        for (int layer = 0; layer < kLayers; ++layer) {
            const auto one = static_cast<std::int32_t>(random() % 4);
            rows.back().path.push_back({4 * token + one, 4 * token + (one + 1) % 4});
        }
    }
    return rows;
}

// The state has a place for each token: 1 where it is this token, 0 elsewhere. Each place votes for the experts of its
// token's path, and each expert that a router used moves the state towards its token, or from it if it did not.
PredictorSettings settings(const std::vector<Row>& map) {
    PredictorSettings made = testing::settings_of(every_layer(kLayers, kExperts), kTopK);
    PathWeights& path = made.path;
    path.vocabulary = path.width = kTokens;
    path.embedding.assign(kTokens * kTokens, 0);
    path.hidden.assign(kTokens * 2 * kTokens, 0);
    path.hidden_bias.assign(kTokens, 0);
    path.output.assign(kLayers * kExperts * kTokens, 0);
    path.output_bias.assign(kLayers * kExperts, -kSure / 2);
    path.correction.assign(kLayers * kExperts * kTokens, 0);
    for (std::size_t token = 0; token < kTokens; ++token) {
        path.embedding[token * kTokens + token] = 1;
        path.hidden[token * 2 * kTokens + token] = 20;  // tanh(20) is 1 in float
        for (std::size_t layer = 0; layer < kLayers; ++layer)
            for (const std::int32_t expert : map[token].path[layer]) {
                const std::size_t number = layer * kExperts + static_cast<std::size_t>(expert);
                path.output[number * kTokens + token] = kSure;
                path.correction[number * kTokens + token] = 1.0f / kTopK;
            }
    }
    return made;
}

void expect_foreseen(const std::vector<Hint>& hints, int later, const Row& row) {
    const auto& used = row.path[static_cast<std::size_t>(later)];
    EXPECT_EQ(recall(hints, later, used), 1.0) << "token " << row.token << ", layer " << later;
    EXPECT_EQ(precision(hints, later, used), 1.0) << "token " << row.token << ", layer " << later;
}

TEST(Path, AMapFromTokensToPathsIsForeseenFromTheStart) {
    const std::vector<Row> rows = vocabulary();
    const PredictorSettings made = settings(rows);
    const auto predictor = make_predictor("path", made);
    Steps steps(*predictor, made);
    for (const Row& row : rows)
        for (const auto& [layer, hints] : steps.run(row)) {
            for (int later = layer + 1; later < std::min(kLayers, layer + 4); ++later)
                expect_foreseen(hints, later, row);
            for (const Hint& hint : hints) EXPECT_LE(hint.id.layer, layer + 3);
        }
    for (const auto& [layer, hints] : steps.run(rows))
        EXPECT_EQ(hints.size(), static_cast<std::size_t>(std::min(3, kLayers - 1 - layer) * kTokens * kTopK));
    EXPECT_TRUE(steps.run(Row{-1, rows[0].path}).at(-1).empty());
}

TEST(Path, TheGateCorrectsAWrongMap) {
    const std::vector<Row> rows = vocabulary();
    const PredictorSettings made = settings(rows);
    const auto predictor = make_predictor("path", made);
    const Row wrong{1, rows[2].path};  // token 1 goes the way of token 2
    const auto hints = Steps(*predictor, made).run(wrong);
    for (int later = 0; later < 3; ++later) {
        expect_foreseen(hints.at(-1), later, rows[1]);
        EXPECT_EQ(recall(hints.at(-1), later, wrong.path[static_cast<std::size_t>(later)]), 0.0);
    }
    for (int layer = 0; layer + 1 < kLayers; ++layer)
        for (int later = layer + 1; later < std::min(kLayers, layer + 4); ++later)
            expect_foreseen(hints.at(layer), later, wrong);

    // Both experts of token 1 were expected and did not come, both of token 2 came unexpected: half a state each.
    const double sure = 1 / (1 + std::exp(-kSure / 2)), state = sure;
    const double probability = 1 / (1 + std::exp(-(kSure * state - kSure / 2)));
    for (const auto& [expert, said] : of_layer(hints.at(0), 1)) EXPECT_NEAR(said, probability, 1e-6);
}

double sigmoid(double x) {
    return 1 / (1 + std::exp(-x));
}

TEST(Path, TheContextIsWhatWasAcceptedAndTheStepsEarlierRows) {
    // One layer of one expert, a state of one value that is the context's tanh. Token 1 is 1, token 0 is 0.
    PredictorSettings made = testing::settings_of(every_layer(1, 1), 1);
    made.path = {2, 1, {0, 1}, {0, 1}, {0}, {1}, {0}, {0}};
    const auto predictor = make_predictor("path", made);
    const auto expected = [&](std::initializer_list<std::int32_t> tokens) {
        std::vector<Hint> hints;
        predictor->on_step(std::vector(tokens));
        predictor->predict(-1, {}, hints);
        return hints.at(0).probability;
    };
    const auto of = [](double context) { return sigmoid(std::tanh(context)); };
    EXPECT_NEAR(expected({0}), of(0), 1e-6);
    EXPECT_NEAR(expected({1}), of(0.2), 1e-6);
    EXPECT_NEAR(expected({0}), of(0), 1e-6) << "the 1 was not accepted";
    EXPECT_NEAR(expected({1, 0}), 1 - (1 - of(0.2)) * (1 - of(0.16)), 1e-6);
    predictor->on_token(1);
    predictor->on_token(0);
    EXPECT_NEAR(expected({0}), of(0.2 * 0.8 * 0.8), 1e-6);
    EXPECT_NEAR(expected({-1}), of(0.2 * 0.8 * 0.8), 1e-6) << "a token that is not known is nothing";
    EXPECT_NEAR(expected({2}), of(0.2 * 0.8 * 0.8), 1e-6) << "as is one beyond the vocabulary";
}

}  // namespace
}  // namespace moestro::policy
