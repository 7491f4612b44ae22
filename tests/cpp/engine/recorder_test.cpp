#include "engine/recorder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "support/refusal.h"
#include "support/toy_model.h"

namespace moestro::engine {
namespace {

constexpr int kExperts = 6, kTopK = 2;

struct World {
    explicit World(int rows, int ahead = 1) : recorder(rows, ahead) {}

    // What the router of a layer makes of a row, numbered through all steps: each is different.
    static float logit(std::size_t position, int row, int expert) {
        return static_cast<float>((expert * 5 + row * 3 + static_cast<int>(position)) % 7);
    }
    static std::vector<std::int32_t> chosen(std::size_t position, int row) {
        return {(row + 3 + static_cast<int>(position)) % kExperts, (row + static_cast<int>(position)) % kExperts};
    }

    void begin(int rows, std::span<const std::uint8_t> tentative = {}, std::span<const std::int32_t> tokens = {}) {
        log.begin(rows, tentative, tokens);
        recorder.begin_step();
    }
    // What a layer's router says, in pieces; what the next layer's makes of its input is off by the expert's number and
    // the row's.
    void layer(std::size_t position, int rows, int piece = 100, bool foresees = true) {
        for (int first = 0; first < rows; first += piece) {
            const int count = std::min(piece, rows - first);
            std::vector<float> logits, ahead, weights(static_cast<std::size_t>(count * kTopK), 0.5f);
            std::vector<std::int32_t> ids, next_ids;
            for (int row = at + first; row < at + first + count; ++row) {
                for (int expert = 0; expert < kExperts; ++expert) {
                    logits.push_back(logit(position, row, expert));
                    ahead.push_back(logit(position + 1, row, expert) - static_cast<float>(expert + row));
                }
                for (const std::int32_t id : chosen(position, row)) ids.push_back(id);
                for (const std::int32_t id : chosen(position + 1, row)) next_ids.push_back(id);
            }
            const int number = catalog.layers()[position].layer;
            log.add(catalog, number, ids.data(), count, kTopK);
            log.add_scores(catalog, number, logits.data(), ids.data(), weights.data(), count, kTopK);
            recorder.routed(position, logits.data(), count, kExperts);
            if (!foresees || position + 1 == catalog.layers().size()) continue;
            const int target = catalog.layers()[position + 1].layer;
            recorder.foreseen(position + 1, 1, ahead.data(), ahead.size());
            log.add_ahead(catalog, target, 1, ahead.data(), next_ids.data(), count, kTopK);
        }
    }
    void end(int rows, std::span<const std::uint8_t> accepted = {}) {
        recorder.end_step(log, catalog, {.cache_bytes = 4096, .began = at}, accepted);
        log.end();
        at += rows;
    }
    void step(int rows, int piece = 100) {
        begin(rows);
        for (std::size_t position = 0; position < 3; ++position) layer(position, rows, piece);
        end(rows);
    }

    testing::ToyModel model{{}};
    store::Catalog catalog{model.packed(), model.open(true)};
    StepLog log;
    Recorder recorder;
    int at = 0;  // rows of the steps before
};

TEST(Recorder, TwoStepsAsTheyWere) {
    World world(10);
    const std::vector<std::uint8_t> tentative{0, 1}, accepted{1, 0};
    world.begin(2, tentative, std::vector<std::int32_t>{11, 12});
    for (std::size_t position = 0; position < 3; ++position) world.layer(position, 2);
    world.end(2, accepted);
    world.step(1);
    const Recorded taken = world.recorder.take(world.catalog);
    const policy::RoutingRecord& record = taken.routing;
    EXPECT_EQ(taken.rows_lost, 0u);
    EXPECT_EQ(record.tokens, (std::vector<std::int32_t>{11, 12, -1}));
    EXPECT_EQ(record.accepted, (std::vector<std::uint8_t>{1, 0, 1})) << "a rejected row is recorded, too";
    ASSERT_EQ(record.steps.size(), 2u);
    EXPECT_EQ(record.steps[0].rows, 2);
    EXPECT_EQ(record.steps[1].rows, 1);
    EXPECT_EQ(record.steps[1].cache_bytes, 4096u);
    EXPECT_EQ(record.steps[1].began, 2);
    ASSERT_EQ(record.layers.size(), 3u);
    for (std::size_t position = 0; position < 3; ++position) {
        const policy::RoutingRecord::Layer& layer = record.layers[position];
        EXPECT_EQ(layer.layer, world.model.layer_number(static_cast<int>(position)));
        EXPECT_EQ(layer.experts, kExperts);
        EXPECT_EQ(layer.top_k, kTopK);
        EXPECT_EQ(layer.kept, 2 * kTopK);
        ASSERT_EQ(layer.chosen.size(), 6u);
        ASSERT_EQ(layer.best.size(), 12u);
        ASSERT_EQ(layer.ahead.size(), position == 0 ? 0u : 1u) << "nobody foresees the first";
        for (int row = 0; row < 3; ++row) {
            std::vector<std::int32_t> ids = World::chosen(position, row);
            const auto from = static_cast<std::size_t>(row);
            if (position > 0) {
                ASSERT_EQ(layer.ahead[0].size(), 12u);
                const auto ahead = std::span(layer.ahead[0]).subspan(4 * from, 4);
                EXPECT_EQ(ahead[0].expert, ids[0]) << "first what would be chosen, in the router's order";
                EXPECT_EQ(ahead[1].expert, ids[1]);
                EXPECT_GE(ahead[2].score, ahead[3].score) << "then the best others";
                for (int expert = 0; expert < kExperts; ++expert) {
                    const float said = World::logit(position, row, expert) - static_cast<float>(expert);
                    const float third =
                        World::logit(position, row, ahead[2].expert) - static_cast<float>(ahead[2].expert);
                    if (expert != ids[0] && expert != ids[1]) {
                        EXPECT_LE(said, third);
                    }
                }
            }
            std::sort(ids.begin(), ids.end());
            EXPECT_EQ((std::vector<std::int32_t>{layer.chosen[2 * from], layer.chosen[2 * from + 1]}), ids);
            const auto best = std::span(layer.best).subspan(4 * from, 4);
            for (std::size_t i = 0; i + 1 < best.size(); ++i)
                EXPECT_GE(World::logit(position, row, best[i].expert), World::logit(position, row, best[i + 1].expert));
        }
    }
    // Rows 0, 1 and 2 were off by expert + row: by expert + 1 on average.
    ASSERT_EQ(taken.offsets.size(), 3u);
    for (std::size_t position = 0; position < 3; ++position) {
        ASSERT_EQ(taken.offsets[position].size(), 1u);
        for (int expert = 0; expert < kExperts; ++expert)
            EXPECT_FLOAT_EQ(taken.offsets[position][0][static_cast<std::size_t>(expert)],
                            position == 0 ? 0 : static_cast<float>(expert + 1));
    }
}

TEST(Recorder, RowsMayComeInPieces) {
    World whole(10), pieces(10);
    whole.step(5);
    pieces.step(5, 2);
    const Recorded one = whole.recorder.take(whole.catalog), other = pieces.recorder.take(pieces.catalog);
    EXPECT_EQ(one.offsets, other.offsets);
    EXPECT_FLOAT_EQ(other.offsets[1][0][3], 3 + 2) << "rows 0 to 4";
    for (std::size_t position = 0; position < 3; ++position) {
        EXPECT_EQ(one.routing.layers[position].chosen, other.routing.layers[position].chosen);
        ASSERT_EQ(one.routing.layers[position].ahead.size(), other.routing.layers[position].ahead.size());
        if (position == 0) continue;
        const auto &a = one.routing.layers[position].ahead[0], &b = other.routing.layers[position].ahead[0];
        ASSERT_EQ(a.size(), b.size());
        for (std::size_t i = 0; i < a.size(); ++i) EXPECT_EQ(a[i].expert, b[i].expert);
    }
}

TEST(Recorder, CountsWhatHadNoRoom) {
    World world(5);
    world.step(2);
    world.step(1);
    world.step(3);
    world.step(2);
    const Recorded taken = world.recorder.take(world.catalog);
    EXPECT_EQ(taken.rows_lost, 3u);
    EXPECT_EQ(taken.routing.rows(), 5);
    ASSERT_EQ(taken.routing.steps.size(), 3u);
    EXPECT_EQ(taken.routing.steps[2].rows, 2) << "what fits is taken, also later";
    EXPECT_EQ(taken.routing.layers[0].chosen.size(), 10u);
    const Recorded nothing = world.recorder.take(world.catalog);
    EXPECT_EQ(nothing.rows_lost, 0u);
    EXPECT_EQ(nothing.routing.rows(), 0);
    EXPECT_FLOAT_EQ(nothing.offsets[1][0][3], 0);
    world.step(4);
    EXPECT_EQ(world.recorder.take(world.catalog).routing.rows(), 4) << "it begins anew";
}

TEST(Recorder, AStepThatIsAbortedIsForesightForNobody) {
    World world(10);
    world.at = 5;
    world.begin(1);
    world.layer(0, 1);
    world.log.end();
    world.at = 0;
    world.step(1);
    const Recorded taken = world.recorder.take(world.catalog);
    EXPECT_EQ(taken.routing.rows(), 1);
    EXPECT_FLOAT_EQ(taken.offsets[1][0][2], 2) << "row 0 alone";
}

TEST(Recorder, WhatIsNotWholeIsRefusedAndChangesNothing) {
    World world(10);
    world.step(2);
    world.begin(1);
    world.layer(0, 1);
    world.layer(1, 1);
    EXPECT_NE(testing::refusal([&] { world.end(1); }).find("layer 5"), std::string::npos);
    world.log.end();
    world.begin(1);
    for (std::size_t position = 0; position < 3; ++position) world.layer(position, 1, 100, position != 1);
    EXPECT_NE(testing::refusal([&] { world.end(1); }).find("foresaw"), std::string::npos);
    world.log.end();
    world.begin(1);
    const std::int32_t ids[] = {0, 1};
    const float weights[] = {0.5f, 0.5f};
    for (const int layer : {1, 3, 5}) {
        world.log.add(world.catalog, layer, ids, 1, kTopK);
        world.log.add_scores(world.catalog, layer, nullptr, ids, weights, 1, kTopK);
    }
    EXPECT_NE(testing::refusal([&] { world.end(1); }).find("layer 1"), std::string::npos) << "scores of fewer";
    world.log.end();
    const Recorded taken = world.recorder.take(world.catalog);
    EXPECT_EQ(taken.routing.rows(), 2);
    for (const policy::RoutingRecord::Layer& layer : taken.routing.layers) EXPECT_EQ(layer.best.size(), 8u);
}

TEST(Recorder, OneWithoutRoomRecordsNothing) {
    World world(0);
    EXPECT_FALSE(world.recorder.on());
    world.step(2);
    const Recorded taken = world.recorder.take(world.catalog);
    EXPECT_EQ(taken.routing.rows(), 0);
    EXPECT_EQ(taken.rows_lost, 0u) << "nobody wanted it";
    EXPECT_GT(Recorder::bytes(100, 8, 20, 2), Recorder::bytes(100, 8, 20, 0));
    EXPECT_EQ(Recorder::bytes(0, 8, 20, 2), 0u);
}

}  // namespace
}  // namespace moestro::engine
