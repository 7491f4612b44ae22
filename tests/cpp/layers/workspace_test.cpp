#include "layers/workspace.h"

#include <gtest/gtest.h>

#include <array>
#include <string>

#include "base/error.h"
#include "base/types.h"
#include "support/refusal.h"

namespace moestro::layers {
namespace {

using testing::refusal;

const WorkShape kShape{.hidden = 48, .heads = 4, .kv_heads = 2, .head_dim = 16, .experts = 6, .top_k = 3};

struct Places {
    std::vector<std::int64_t> positions{3, 70}, begins{0, 1};
    std::vector<memory::BlockId> tables{5, 6, 7}, blocks{5, 7};
    std::vector<float> frequencies = std::vector<float>(8, 0.5f);

    StepPlaces::Rotary rotary{frequencies.data(), false, 2.0f};

    StepPlaces view() const { return {{positions, tables, begins}, blocks, {&rotary, 1}}; }
};

TEST(Workspace, KeepsThePlacesItWasGiven) {
    Workspace work(kShape, 4);
    EXPECT_EQ(work.rows(), 0);
    {
        Places places;
        work.begin(places.view());
    }
    EXPECT_EQ(work.rows(), 2);
    EXPECT_EQ(work.batch().positions[1], 70);
    EXPECT_EQ(work.batch().begins[1], 1);
    EXPECT_EQ(work.batch().tables[2], 7);
    EXPECT_EQ(work.blocks()[1], 7);
    EXPECT_FALSE(work.any_hole());
    std::vector<float> cos(16), sin(16);
    const Places places;
    kernels::rope_table(places.positions.data(), places.frequencies.data(), false, 2.0f, 2, 8, cos.data(), sin.data());
    EXPECT_EQ(std::vector<float>(work.rotary(0).cos, work.rotary(0).cos + 16), cos);
    EXPECT_EQ(std::vector<float>(work.rotary(0).sin, work.rotary(0).sin + 16), sin);
}

TEST(Workspace, RefusesPlacesThatMakeNoSense) {
    Workspace work(kShape, 2);
    const auto refused = [&](const auto& spoil) {
        Places places;
        spoil(places);
        return refusal([&] { work.begin(places.view()); });
    };
    EXPECT_EQ(refused([](Places&) {}), "accepted");
    EXPECT_NE(refused([](Places& p) { p.positions[0] = -1; }).find("positions"), std::string::npos);
    EXPECT_NE(refused([](Places& p) { p.positions[1] = 128; }).find("needs 3 blocks"), std::string::npos);
    EXPECT_NE(refused([](Places& p) { p.begins[0] = 3; }).find("table_begin"), std::string::npos);
    EXPECT_NE(refused([](Places& p) { p.begins[0] = -1; }).find("table_begin"), std::string::npos);
    EXPECT_NE(refused([](Places& p) { p.positions = p.begins = {}, p.blocks = {}; }).find("1 to 2"), std::string::npos);
    EXPECT_NE(refused([](Places& p) {
                  p.positions = p.begins = {0, 0, 0};
                  p.blocks = {5, 5, 5};
              }).find("1 to 2"),
              std::string::npos);
}

TEST(Workspace, RefusesSizesThatMakeNoSense) {
    const auto refused = [](const auto& spoil, int rows = 2) {
        WorkShape shape = kShape;
        spoil(shape);
        return refusal([&] { const Workspace work(shape, rows); }) != "accepted";
    };
    EXPECT_FALSE(refused([](WorkShape&) {}));
    EXPECT_FALSE(refused([](WorkShape& shape) { shape.experts = shape.top_k = 0; }));
    EXPECT_TRUE(refused([](WorkShape&) {}, 0));
    EXPECT_TRUE(refused([](WorkShape& shape) { shape.hidden = 0; }));
    EXPECT_TRUE(refused([](WorkShape& shape) { shape.head_dim = 15; }));
    EXPECT_TRUE(refused([](WorkShape& shape) { shape.top_k = 7; }));
}

TEST(Workspace, ItsArraysLieApartWithinTheBytesItSays) {
    const Workspace work(kShape, 3);
    const WorkArrays& at = work.arrays();
    const std::array<std::pair<const void*, std::size_t>, 11> floats{{{at.x, 48},
                                                                      {at.normed, 48},
                                                                      {at.branch, 48},
                                                                      {at.q, 64},
                                                                      {at.k, 32},
                                                                      {at.v, 32},
                                                                      {at.attended, 64},
                                                                      {work.rotary(0).cos, 8},
                                                                      {work.rotary(0).sin, 8},
                                                                      {at.logits, 6},
                                                                      {at.weights, 3}}};
    std::vector<std::pair<std::uintptr_t, std::uintptr_t>> spans;
    for (const auto& [begin, width] : floats)
        spans.emplace_back(reinterpret_cast<std::uintptr_t>(begin),
                           reinterpret_cast<std::uintptr_t>(begin) + 3 * 4 * width);
    spans.emplace_back(reinterpret_cast<std::uintptr_t>(at.ids), reinterpret_cast<std::uintptr_t>(at.ids + 9));
    spans.emplace_back(reinterpret_cast<std::uintptr_t>(work.host().every_row),
                       reinterpret_cast<std::uintptr_t>(work.host().every_row + 3));
    std::sort(spans.begin(), spans.end());
    for (std::size_t i = 0; i < spans.size(); ++i) {
        EXPECT_EQ(spans[i].first % 64, 0u);
        if (i > 0) {
            EXPECT_GE(spans[i].first, spans[i - 1].second);
        }
    }
    EXPECT_LE(spans.back().second - spans.front().first, Workspace::bytes(kShape, 3));
    EXPECT_EQ(Workspace::bytes(kShape, 3) % kPageBytes, 0u);
}

TEST(Workspace, OneCallAtATimeAndItsTimeIsCounted) {
    Workspace work(kShape, 2);
    const Places places;
    {
        const Workspace::Use use(work);
        EXPECT_NE(refusal([&] { work.begin(places.view()); }).find("another thread"), std::string::npos);
    }
    const Nanos before = work.busy_ns();
    EXPECT_EQ(refusal([&] { work.begin(places.view()); }), "accepted");
    EXPECT_GT(work.busy_ns(), before);
}

}  // namespace
}  // namespace moestro::layers
