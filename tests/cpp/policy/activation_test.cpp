// The collection of activation matrices, and what `activation` makes of tasks that are known apart by their beginnings.
#include "policy/activation.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "policy/activation_collection.h"
#include "policy/predictions.h"

namespace moestro::policy {
namespace {

using testing::every_layer;
using testing::of_layer;
using testing::precision;
using testing::recall;
using testing::Row;
using testing::Steps;

constexpr int kLayers = 6, kExperts = 8, kTopK = 2;

std::vector<std::vector<std::int32_t>> matrices(const ActivationCollection& collection) {
    std::vector<std::vector<std::int32_t>> all;
    for (int i = 0; i < collection.size(); ++i) {
        const auto used = collection.used(i);
        all.emplace_back(used.begin(), used.end());
    }
    return all;
}

TEST(ActivationCollection, TheMostSimilarMakesRoom) {
    ActivationCollection collection(12, 3);
    for (const std::vector<std::int32_t>& one : {std::vector{0, 1, 2}, {3, 4, 5}, {6, 7, 8}}) collection.add(one);
    EXPECT_EQ(collection.size(), 3);
    collection.add(std::vector{3, 4, 9});
    EXPECT_EQ(matrices(collection), (std::vector<std::vector<std::int32_t>>{{0, 1, 2}, {3, 4, 9}, {6, 7, 8}}));
    // It shares two with each of the outer ones, and all three with the middle one.
    collection.add(std::vector{1, 2, 3, 4, 5, 7, 8, 9, 11});
    EXPECT_EQ(collection.used(1).size(), 9u);
    collection.add(std::vector{0});
    EXPECT_EQ(matrices(collection)[0], (std::vector{0}));
    collection.add(std::vector{0, 5});
    EXPECT_EQ(matrices(collection)[0], (std::vector{0, 5}));
    for (std::int32_t expert = 0; expert < 12; ++expert) {
        std::set<int> holders, expected;
        for (const std::uint16_t one : collection.holders(expert)) EXPECT_TRUE(holders.insert(one).second);
        for (int i = 0; i < collection.size(); ++i) {
            const auto used = collection.used(i);
            if (std::find(used.begin(), used.end(), expert) != used.end()) expected.insert(i);
        }
        EXPECT_EQ(holders, expected) << "expert " << expert;
    }
}

// Two tasks that share no expert; which two of its four experts a layer of a task uses changes from token to token.
Row token_of(int task, std::mt19937& random) {
    Row row;
    for (int layer = 0; layer < kLayers; ++layer) {
        std::vector<std::int32_t> experts(4);
        std::iota(experts.begin(), experts.end(), (task + layer) % 2 * 4);
        std::shuffle(experts.begin(), experts.end(), random);
        row.path.push_back({experts[0], experts[1]});
    }
    return row;
}

std::vector<std::int32_t> experts_of(int task, int layer) {
    std::vector<std::int32_t> experts(4);
    std::iota(experts.begin(), experts.end(), (task + layer) % 2 * 4);
    return experts;
}

void expect_tasks_apart(Predictor& predictor, const PredictorSettings& settings, std::mt19937& random) {
    Steps steps(predictor, settings);
    for (int step = 0; step < 40; ++step) {
        const Row row = token_of(step % 2, random);
        const auto hints = steps.run(row);
        EXPECT_TRUE(hints.at(-1).empty()) << "the task is not known yet";
        for (int layer = 0; layer + 1 < kLayers; ++layer)
            for (int later = layer + 1; later < std::min(kLayers, layer + 4); ++later) {
                EXPECT_EQ(recall(hints.at(layer), later, row.path[static_cast<std::size_t>(later)]), 1.0);
                EXPECT_EQ(precision(hints.at(layer), later, experts_of(step % 2, later)), 1.0);
            }
    }
}

TEST(Activation, TasksAreKnownByTheirFirstLayer) {
    std::mt19937 random(1);
    std::vector<Row> learnt;
    for (int i = 0; i < 400; ++i) learnt.push_back(token_of(i % 2, random));
    PredictorSettings settings = testing::settings_of(every_layer(kLayers, kExperts), kTopK);
    settings.trace = testing::table_of(learnt);
    const auto predictor = make_predictor("activation", settings);
    expect_tasks_apart(*predictor, settings, random);
}

TEST(Activation, TasksAreLearntInUse) {
    std::mt19937 random(2);
    const PredictorSettings settings = testing::settings_of(every_layer(kLayers, kExperts), kTopK);
    const auto predictor = make_predictor("activation", settings);
    Steps steps(*predictor, settings);
    for (const auto& [layer, hints] : steps.run(token_of(0, random))) EXPECT_TRUE(hints.empty()) << layer;
    std::vector<Row> several;
    for (int i = 0; i < 3 * kActivationMatrices; ++i) several.push_back(token_of(i % 2, random));
    steps.run(several);
    expect_tasks_apart(*predictor, settings, random);
}

// The whole of it once more, densely.
TEST(Activation, IsTheWeightedMeanOfTheBestMatches) {
    std::mt19937 random(3);
    const auto random_row = [&] {
        Row row;
        for (int layer = 0; layer < kLayers; ++layer) {
            const auto one = static_cast<std::int32_t>(random() % kExperts);
            row.path.push_back({one, static_cast<std::int32_t>((one + 1 + static_cast<int>(random() % 3)) % kExperts)});
        }
        return row;
    };
    std::vector<Row> learnt;
    for (int i = 0; i < 300; ++i) learnt.push_back(random_row());
    PredictorSettings settings = testing::settings_of(every_layer(kLayers, kExperts), kTopK);
    settings.trace = testing::table_of(learnt);
    for (const int rows : {1, 4}) {
        const auto predictor = make_predictor("activation", settings);
        std::vector<Row> step;
        for (int i = 0; i < rows; ++i) step.push_back(random_row());
        const auto hints = Steps(*predictor, settings).run(step);
        for (std::size_t layer = 0; layer + 1 < kLayers; ++layer) {
            std::vector<std::pair<double, std::size_t>> matches;
            for (std::size_t i = 0; i < learnt.size(); ++i) {
                double product = 0, squared = 0;
                for (std::size_t seen = 0; seen <= layer; ++seen) {
                    std::vector<double> counts(kExperts);
                    for (const Row& row : step)
                        for (const std::int32_t expert : row.path[seen]) ++counts[static_cast<std::size_t>(expert)];
                    for (const double count : counts) squared += count * count;
                    for (const std::int32_t expert : learnt[i].path[seen])
                        product += counts[static_cast<std::size_t>(expert)];
                }
                const double length = std::sqrt(static_cast<double>((layer + 1) * kTopK));
                matches.push_back({-product / std::sqrt(squared) / length, i});
            }
            std::sort(matches.begin(), matches.end(), [](const auto& one, const auto& other) {
                return std::abs(one.first - other.first) > 1e-12 ? one.first < other.first : one.second < other.second;
            });
            std::vector<double> mean(kExperts);
            double weights = 0;
            for (std::size_t i = 0; i < kActivationMatches; ++i) {
                const double weight = std::pow(matches[i].first, kActivationPower);
                weights += weight;
                for (const std::int32_t expert : learnt[matches[i].second].path[layer + 1])
                    mean[static_cast<std::size_t>(expert)] += weight;
            }
            const auto said = of_layer(hints.at(static_cast<int>(layer)), static_cast<int>(layer + 1));
            for (std::int32_t expert = 0; expert < kExperts; ++expert) {
                const double of_row = std::min(1.0, mean[static_cast<std::size_t>(expert)] / weights);
                const double expected = 1 - std::pow(1 - of_row, rows);
                if (said.contains(expert)) {
                    EXPECT_NEAR(said.at(expert), expected, 1e-5) << "layer " << layer << ", expert " << expert;
                } else {
                    EXPECT_LT(expected, kLeastActivation + 1e-6) << "layer " << layer << ", expert " << expert;
                }
            }
        }
    }
}

}  // namespace
}  // namespace moestro::policy
