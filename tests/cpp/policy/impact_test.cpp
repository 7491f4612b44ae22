#include "policy/impact.h"

#include <gtest/gtest.h>

#include <set>

#include "policy/near_miss.h"

namespace moestro::policy {
namespace {

constexpr int kExperts = 16;

// What a router made of some rows: of each the same number of experts, best first.
struct Rows {
    int top_k = 1;
    std::vector<std::vector<ScoredExpert>> rows;

    std::vector<ScoredExpert> flat() const {
        std::vector<ScoredExpert> all;
        for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
        return all;
    }
};

struct Asked {
    Asked() {
        PredictorSettings settings;
        for (int layer = 0; layer < 6; ++layer) {
            settings.experts.layers.push_back({layer, kExperts});
            settings.top_k.push_back(1);
        }
        predictor = make_impact(settings);
        outlook.resident = [this](ExpertId id) { return resident.contains(id); };
        outlook.costs.cpu = {0, 10};
        outlook.costs.ssd = 100;
        predictor->on_step({});
    }
    void thinks(int target, const Rows& rows) {
        const std::vector<ScoredExpert> best = rows.flat();
        const int count = static_cast<int>(rows.rows.size());
        predictor->on_ahead(0, target, {best, count, static_cast<int>(best.size()) / count, rows.top_k});
    }
    // One row for each expert.
    void expects(int target, std::initializer_list<std::int32_t> experts) {
        Rows rows;
        for (const std::int32_t expert : experts) rows.rows.push_back({{expert, 0.5f}});
        thinks(target, rows);
    }
    std::vector<Hint> hints(int layer = 0) {
        std::vector<Hint> made;
        predictor->predict(layer, outlook, made);
        return made;
    }

    std::set<ExpertId> resident;
    Outlook outlook;
    std::unique_ptr<Predictor> predictor;
};

void expect_hint(const Hint& hint, ExpertId id, double gain) {
    EXPECT_EQ(hint.id, id);
    EXPECT_DOUBLE_EQ(hint.gain, gain);
}

TEST(Impact, WantsThreeLayersAhead) {
    EXPECT_EQ(Asked().predictor->name(), "impact");
    EXPECT_EQ(Asked().predictor->lookahead(), 3);
}

// Without a device: 100 to read one, 10 to compute one.
TEST(Impact, WhatAReadWouldSaveIsWhatItGains) {
    Asked one;
    one.resident = {{1, 2}};
    one.expects(1, {2, 5});
    const auto hints = one.hints();
    ASSERT_EQ(hints.size(), 1u);
    expect_hint(hints[0], {1, 5}, 90);  // read and computed by 110; both computed by 20
    EXPECT_EQ(hints[0].probability, 1);
}

TEST(Impact, EachGainsGivenThoseBeforeIt) {
    Asked one;
    one.expects(1, {4, 3});
    const auto hints = one.hints();
    ASSERT_EQ(hints.size(), 2u);
    expect_hint(hints[0], {1, 3}, 100);  // 210 until now; with one of them 110
    expect_hint(hints[1], {1, 4}, 90);   // and with both 20
}

TEST(Impact, TheGreatestGainOfThreeLayersComesFirst) {
    Asked one;
    one.resident = {{1, 0}, {1, 1}, {1, 2}, {1, 3}, {1, 4}, {1, 5}};
    // In layer 1 the CPU is busy until 60 with what is there: a read for 6 ends 50 after it.
    one.expects(1, {0, 1, 2, 3, 4, 5, 6});
    one.expects(2, {7});
    one.expects(3, {8, 9});
    const auto hints = one.hints();
    ASSERT_EQ(hints.size(), 4u);
    expect_hint(hints[0], {2, 7}, 100);  // 110, then 10; of equal gains the nearer layer's
    expect_hint(hints[1], {3, 8}, 100);
    expect_hint(hints[2], {3, 9}, 90);
    expect_hint(hints[3], {1, 6}, 40);  // 110, then 70
}

TEST(Impact, WhatTheCpuHidesGainsNothing) {
    Asked one;
    one.outlook.costs.has_device = true;
    one.outlook.costs.device = {10, 0};
    one.outlook.costs.link = 200;
    // The CPU computes 1 while the device computes 0; if the device had both, one would still be on each side.
    one.resident = {{1, 0}};
    one.expects(1, {0, 1});
    EXPECT_TRUE(one.hints().empty());
    // Four rows each: 80 on the CPU, 40 beside a device that has one of them, 20 on one that has both.
    one.expects(2, {3, 3, 3, 3, 4, 4, 4, 4});
    const auto hints = one.hints();
    ASSERT_EQ(hints.size(), 2u);
    expect_hint(hints[0], {2, 3}, 40);
    expect_hint(hints[1], {2, 4}, 20);
}

TEST(Impact, HintsAtEightAtMost) {
    Asked one;
    one.expects(1, {0, 1, 2, 3, 4, 5});
    one.expects(2, {0, 1, 2, 3, 4, 5});
    EXPECT_EQ(one.hints().size(), 8u);
}

TEST(Impact, NearMissesAreNoCandidatesButTheLikelierOfEqualsComesFirst) {
    Asked one;
    one.thinks(1, {1, {{{3, 0.4f}, {9, 0.1f}}, {{5, 0.9f}, {9, 0.1f}}}});
    const auto hints = one.hints();
    ASSERT_EQ(hints.size(), 2u);
    expect_hint(hints[0], {1, 5}, 100);
    expect_hint(hints[1], {1, 3}, 90);
    EXPECT_FLOAT_EQ(hints[0].probability, 27.0f / 28);  // 0.9 and a boundary of 0.3
    EXPECT_FLOAT_EQ(hints[1].probability, 8.0f / 9);    // 0.4 and 0.2
}

TEST(Impact, KnowsOnlyWhatIsAheadInThisStep) {
    Asked one;
    one.expects(1, {3});
    one.expects(2, {4});
    const auto later = one.hints(1);
    ASSERT_EQ(later.size(), 1u);
    EXPECT_EQ(later[0].id, (ExpertId{2, 4}));
    one.expects(2, {6});
    ASSERT_EQ(one.hints(1).size(), 1u);
    EXPECT_EQ(one.hints(1)[0].id, (ExpertId{2, 6})) << "the newer thought counts";
    one.predictor->on_step({});
    EXPECT_TRUE(one.hints(-1).empty());
}

TEST(NearMiss, TheBoundaryHasAChanceOfOneHalf) {
    // Two are chosen; the boundary is at sqrt(0.2 * 0.05) = 0.1.
    const std::vector<ScoredExpert> best = {{0, 0.5f}, {1, 0.2f}, {2, 0.05f}, {3, 0.0f}};
    const Thought thought{best, 1, 4, 2};
    EXPECT_FLOAT_EQ(chance(thought, 0, 0), 125.0f / 126);
    EXPECT_FLOAT_EQ(chance(thought, 0, 1), 8.0f / 9);
    EXPECT_FLOAT_EQ(chance(thought, 0, 2), 1.0f / 9);
    EXPECT_FLOAT_EQ(chance(thought, 0, 1) + chance(thought, 0, 2), 1) << "as far from it on both sides";
    EXPECT_EQ(chance(thought, 0, 3), 0);
    const Thought all_chosen{best, 2, 2, 2};
    EXPECT_EQ(chance(all_chosen, 1, 0), 1) << "nothing is known of the others";
    const std::vector<ScoredExpert> equal = {{0, 0.1f}, {1, 0.1f}};
    EXPECT_FLOAT_EQ(chance({equal, 1, 2, 1}, 0, 0), 0.5f);
    const std::vector<ScoredExpert> none = {{0, 0.0f}, {1, 0.0f}};
    EXPECT_EQ(chance({none, 1, 2, 1}, 0, 0), 1);
    EXPECT_EQ(chance({none, 1, 2, 1}, 0, 1), 0);
}

TEST(NearMiss, ARowIsReadFromItsOwnPlace) {
    const std::vector<ScoredExpert> best = {{0, 0.9f}, {1, 0.1f}, {5, 0.4f}, {6, 0.1f}};
    EXPECT_FLOAT_EQ(chance({best, 2, 2, 1}, 1, 0), 8.0f / 9);
}

}  // namespace
}  // namespace moestro::policy
