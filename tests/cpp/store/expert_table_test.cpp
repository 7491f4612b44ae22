#include "store/expert_table.h"

#include <gtest/gtest.h>

#include "support/refusal.h"

namespace moestro::store {
namespace {

TEST(ExpertTable, NumbersExpertsThroughAllLayers) {
    const ExpertTable table({{1, 4, 4096}, {3, 2, 12288}, {4, 3, 8192}});
    EXPECT_EQ(table.experts(), 9);
    EXPECT_EQ(table.number({1, 0}), 0);
    EXPECT_EQ(table.number({3, 1}), 5);
    EXPECT_EQ(table.number({4, 2}), 8);
    for (int number = 0; number < table.experts(); ++number) EXPECT_EQ(table.number(table.id(number)), number);
    EXPECT_EQ(table.id(4), (ExpertId{3, 0}));
    EXPECT_EQ(table.position(4), 2u);
    EXPECT_EQ(table.record_bytes(), 4u * 4096 + 2 * 12288 + 3 * 8192);
    EXPECT_EQ(table.largest_record(), 12288u);
    EXPECT_EQ(table.sizes().size(), 3u);
}

TEST(ExpertTable, LayersWithoutExpertsAreNamed) {
    const ExpertTable table({{1, 4, 4096}, {3, 2, 4096}});
    for (const int layer : {-1, 0, 2, 4})
        EXPECT_NE(testing::refusal([&] { table.position(layer); }).find("has no experts"), std::string::npos) << layer;
}

TEST(ExpertTable, WhatIsNoModelIsRefused) {
    const auto refused = [](std::vector<ExpertTable::Layer> layers, const char* says) {
        return testing::refusal([&] { const ExpertTable table(layers); }).find(says) != std::string::npos;
    };
    EXPECT_FALSE(refused({{0, 1, 4096}}, "layer"));
    EXPECT_TRUE(refused({}, "without expert layers"));
    EXPECT_TRUE(refused({{-1, 1, 4096}}, "start at 0"));
    EXPECT_TRUE(refused({{0, 0, 4096}}, "has no experts"));
    EXPECT_TRUE(refused({{0, 1, 0}}, "multiple of 4096"));
    EXPECT_TRUE(refused({{0, 1, 4097}}, "multiple of 4096"));
    EXPECT_TRUE(refused({{2, 1, 4096}, {2, 1, 4096}}, "ascend"));
    EXPECT_TRUE(refused({{2, 1, 4096}, {1, 1, 4096}}, "ascend"));
}

}  // namespace
}  // namespace moestro::store
