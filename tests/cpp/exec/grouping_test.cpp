#include "exec/grouping.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/error.h"

namespace moestro::exec {
namespace {

TEST(Grouping, EveryPairHasItsPlaceAndRowsAscend) {
    std::mt19937 random(2);
    Grouping groups;  // reused: nothing of an earlier call may show
    for (int round = 0; round < 200; ++round) {
        const int rows = static_cast<int>(random() % 20), top_k = 1 + static_cast<int>(random() % 4);
        const int experts = 1 + static_cast<int>(random() % 9);
        std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * top_k));
        for (std::int32_t& id : ids) id = static_cast<std::int32_t>(random() % static_cast<unsigned>(experts));
        groups.group(ids.data(), rows, top_k, experts);
        ASSERT_EQ(groups.places().size(), ids.size());

        std::vector<int> seen(ids.size(), 0);
        for (std::size_t pair = 0; pair < ids.size(); ++pair) {
            const std::int32_t place = groups.places()[pair];
            ++seen[static_cast<std::size_t>(place)];
            int group = 0;
            while (place >= groups.begin(group) + groups.pairs(group)) ++group;
            EXPECT_EQ(groups.expert(group), ids[pair]);
            EXPECT_EQ(groups.rows(group)[static_cast<std::size_t>(place - groups.begin(group))],
                      static_cast<std::int32_t>(pair) / top_k);
        }
        for (const int count : seen) EXPECT_EQ(count, 1);
        for (int group = 0; group < groups.distinct(); ++group) {
            EXPECT_GT(groups.pairs(group), 0);
            if (group > 0) {
                EXPECT_LT(groups.expert(group - 1), groups.expert(group));
            }
            EXPECT_TRUE(std::is_sorted(groups.rows(group).begin(), groups.rows(group).end()));
        }
    }
}

TEST(Grouping, NamesTheRowOfAnImpossibleId) {
    Grouping groups;
    const std::int32_t ids[] = {0, 1, 2, 4};
    try {
        groups.group(ids, 2, 2, 4);
        ADD_FAILURE() << "expert 4 of 4 was accepted";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        EXPECT_NE(std::string(error.what()).find("row 1"), std::string::npos) << error.what();
    }
    const std::int32_t negative[] = {-1};
    EXPECT_THROW(groups.group(negative, 1, 1, 4), Error);
}

}  // namespace
}  // namespace moestro::exec
