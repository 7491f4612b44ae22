// What every predictor keeps to, whatever it is told.
#include <gtest/gtest.h>

#include <numeric>
#include <random>
#include <set>
#include <string>

#include "base/error.h"
#include "policy/predictions.h"

namespace moestro::policy {
namespace {

using testing::Row;
using testing::Steps;

constexpr int kLayers = 6, kVocabulary = 20, kTopK = 2, kWidth = 3;

// Every other layer has experts, not all as many.
ExpertSet experts() {
    ExpertSet set;
    for (int i = 0; i < kLayers; ++i) set.layers.push_back({2 * i + 1, 6 + i});
    return set;
}

std::vector<std::int32_t> shuffled(int count, std::mt19937& random) {
    std::vector<std::int32_t> all(static_cast<std::size_t>(count));
    std::iota(all.begin(), all.end(), 0);
    std::shuffle(all.begin(), all.end(), random);
    return all;
}

std::vector<Row> random_rows(int count, std::mt19937& random) {
    std::vector<Row> rows;
    for (int i = 0; i < count; ++i) {
        Row row{static_cast<std::int32_t>(random() % (kVocabulary + 1)) - 1, {}};
        for (const ExpertSet::Layer& layer : experts().layers) {
            row.path.push_back(shuffled(layer.experts, random));
            row.path.back().resize(kTopK);
        }
        rows.push_back(std::move(row));
    }
    return rows;
}

PredictorSettings settings(int trace = 40) {
    std::mt19937 random(11);
    PredictorSettings made = testing::settings_of(experts(), kTopK);
    if (trace > 0) made.trace = testing::table_of(random_rows(trace, random));
    std::normal_distribution<float> normal;
    const auto values = [&](int rows, int columns) {
        std::vector<float> all(static_cast<std::size_t>(rows * columns));
        for (float& value : all) value = normal(random);
        return all;
    };
    const int all = made.experts.experts();
    made.path = {
        kVocabulary,         kWidth,         values(kVocabulary, kWidth), values(kWidth, 2 * kWidth), values(kWidth, 1),
        values(all, kWidth), values(all, 1), values(all, kWidth)};
    return made;
}

class PredictorContract : public ::testing::TestWithParam<std::string> {
  protected:
    // Of steps of one row and of several, with thoughts of twice as many experts as are chosen.
    static std::vector<std::map<int, std::vector<Hint>>> hints_of(Predictor& predictor, int steps, unsigned seed) {
        const PredictorSettings made = settings();
        Steps told(predictor, made);
        std::mt19937 random(seed);
        std::vector<std::map<int, std::vector<Hint>>> hints;
        for (int step = 0; step < steps; ++step) {
            const int count = step % 3 == 2 ? 1 + static_cast<int>(random() % 50) : 1;
            const std::vector<Row> rows = random_rows(count, random);
            hints.push_back(told.run(rows, [&](std::size_t position) {
                std::vector<std::vector<std::int32_t>> thoughts;
                for (int row = 0; row < count; ++row) {
                    thoughts.push_back(shuffled(made.experts.layers[position].experts, random));
                    thoughts.back().resize(2 * kTopK);
                }
                return thoughts;
            }));
        }
        return hints;
    }
};

TEST_P(PredictorContract, SpeaksOfLaterLayersOfEachExpertOnce) {
    const auto predictor = make_predictor(GetParam(), settings());
    EXPECT_EQ(predictor->name(), GetParam());
    EXPECT_GE(predictor->lookahead(), 0);
    std::size_t all = 0;
    for (const auto& step : hints_of(*predictor, 60, 1))
        for (const auto& [layer, hints] : step) {
            std::set<ExpertId> seen;
            for (const Hint& hint : hints) {
                EXPECT_GT(hint.id.layer, layer);
                const ExpertSet set = experts();
                const std::size_t position = set.position(hint.id.layer);
                EXPECT_GE(hint.id.expert, 0);
                EXPECT_LT(hint.id.expert, set.layers[position].experts);
                EXPECT_GT(hint.probability, 0.0f);
                EXPECT_LE(hint.probability, 1.0f);
                EXPECT_GE(hint.gain, 0.0);
                EXPECT_TRUE(seen.insert(hint.id).second) << hint.id.layer << ", " << hint.id.expert;
            }
            all += hints.size();
        }
    EXPECT_EQ(all == 0, GetParam() == "none");
}

TEST_P(PredictorContract, AppendsToWhatIsThere) {
    const auto predictor = make_predictor(GetParam(), settings());
    std::vector<Hint> hints = {{.id = {7, 5}, .probability = 0.5f}};
    const std::int32_t tokens[] = {3};
    predictor->on_step(tokens);
    predictor->predict(-1, testing::cold(), hints);
    ASSERT_FALSE(hints.empty());
    EXPECT_EQ(hints[0].id, (ExpertId{7, 5}));
}

TEST_P(PredictorContract, IsAFunctionOfWhatItWasTold) {
    const auto one = make_predictor(GetParam(), settings()), other = make_predictor(GetParam(), settings());
    const auto first = hints_of(*one, 30, 2), second = hints_of(*other, 30, 2);
    ASSERT_EQ(first.size(), second.size());
    for (std::size_t step = 0; step < first.size(); ++step)
        for (const auto& [layer, hints] : first[step]) {
            const auto& same = second[step].at(layer);
            ASSERT_EQ(hints.size(), same.size()) << "step " << step << ", layer " << layer;
            for (std::size_t i = 0; i < hints.size(); ++i) {
                ASSERT_EQ(hints[i].id, same[i].id);
                ASSERT_EQ(hints[i].probability, same[i].probability);
                ASSERT_EQ(hints[i].gain, same[i].gain);
            }
        }
}

TEST_P(PredictorContract, AskingChangesNothing) {
    const auto predictor = make_predictor(GetParam(), settings());
    hints_of(*predictor, 10, 3);
    const std::int32_t tokens[] = {3, -1};
    predictor->on_step(tokens);
    std::vector<Hint> first, second;
    predictor->predict(-1, testing::cold(), first);
    predictor->predict(-1, testing::cold(), second);
    ASSERT_EQ(first.size(), second.size());
    for (std::size_t i = 0; i < first.size(); ++i) EXPECT_EQ(first[i].id, second[i].id);
}

TEST_P(PredictorContract, CanBeAskedBeforeItWasToldAnything) {
    const auto predictor = make_predictor(GetParam(), settings());
    std::vector<Hint> hints;
    predictor->predict(-1, testing::cold(), hints);
    EXPECT_TRUE(hints.empty()) << "there is no row yet";
    predictor->on_step({});
    predictor->predict(-1, testing::cold(), hints);
    EXPECT_TRUE(hints.empty());
    const std::int32_t unknown[] = {-1, kVocabulary + 5};
    predictor->on_step(unknown);
    predictor->predict(-1, testing::cold(), hints);
    predictor->predict(2 * kLayers - 1, testing::cold(), hints);
    for (const Hint& hint : hints) EXPECT_LT(hint.id.layer, 2 * kLayers);
}

TEST_P(PredictorContract, ForgetsAStepThatEndsEarly) {
    const auto predictor = make_predictor(GetParam(), settings());
    const PredictorSettings made = settings();
    std::mt19937 random(4);
    Steps told(*predictor, made);
    const std::vector<Row> many = random_rows(5, random), one = random_rows(1, random);
    told.begin(many);
    told.route(many, 0);
    told.run(one);
    EXPECT_EQ(predictor->name(), GetParam());
}

INSTANTIATE_TEST_SUITE_P(Every, PredictorContract, ::testing::ValuesIn([] {
                             std::vector<std::string> names;
                             for (const std::string_view name : predictor_names()) names.emplace_back(name);
                             return names;
                         }()),
                         [](const auto& name) { return name.param; });

TEST(Predictor, AnUnknownOneIsNamedWithThoseThatAre) {
    try {
        require_predictor("oracle");
        ADD_FAILURE() << "taken";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        const std::string message = error.what();
        EXPECT_NE(message.find("\"oracle\""), std::string::npos) << message;
        for (const std::string_view name : predictor_names())
            EXPECT_NE(message.find(name), std::string::npos) << message;
    }
}

void expect_usage(std::string_view name, const PredictorSettings& with, const std::string& part) {
    try {
        make_predictor(name, with);
        ADD_FAILURE() << name << " was made";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
}

TEST(Predictor, WhatOneLacksIsSaid) {
    expect_usage("transition", settings(0), "give it a routing trace");
    for (const char* name : {"transition", "activation"}) {
        PredictorSettings cut = settings();
        cut.trace.chosen.pop_back();
        expect_usage(name, cut, "480 choices; got 479");
        PredictorSettings other = settings();
        other.trace.chosen.back() = 11;
        expect_usage(name, other, "uses expert 11 of layer 11; the model has 11 there");
    }
    EXPECT_NO_THROW(make_predictor("activation", settings(0))) << "it learns in use";
}

TEST(Predictor, PathWeightsMustBeOfTheModel) {
    PredictorSettings none = settings();
    none.path = {};
    expect_usage("path", none, "needs weights");
    const auto with = [](auto change) {
        PredictorSettings changed = settings();
        change(changed.path);
        return changed;
    };
    expect_usage("path", with([](PathWeights& path) { path.embedding.pop_back(); }), "embedding must be [20, 3]");
    expect_usage("path", with([](PathWeights& path) { path.hidden.pop_back(); }), "hidden must be [3, 6]");
    expect_usage("path", with([](PathWeights& path) { path.hidden_bias.clear(); }), "hidden_bias must be [3, 1]");
    expect_usage("path", with([](PathWeights& path) { path.output.resize(9); }), "output must be [51, 3]");
    expect_usage("path", with([](PathWeights& path) { path.output_bias.resize(9); }), "output_bias must be [51, 1]");
    expect_usage("path", with([](PathWeights& path) { path.correction.resize(9); }), "correction must be [51, 3]");
}

}  // namespace
}  // namespace moestro::policy
