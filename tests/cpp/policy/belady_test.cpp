// The bound against every possible choice.
#include "policy/belady.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace moestro::policy {
namespace {

// The least misses from access `at` on: what is kept after a miss is tried out.
std::int64_t brute_force(const std::vector<ExpertId>& accesses, std::size_t at, std::vector<ExpertId> resident,
                         std::size_t room) {
    while (at < accesses.size() && std::find(resident.begin(), resident.end(), accesses[at]) != resident.end()) ++at;
    if (at == accesses.size()) return 0;
    std::int64_t best = brute_force(accesses, at + 1, resident, room);  // passes by
    if (resident.size() < room) {
        std::vector<ExpertId> with = resident;
        with.push_back(accesses[at]);
        best = std::min(best, brute_force(accesses, at + 1, with, room));
    }
    for (ExpertId& leaves : resident) {
        const ExpertId kept = std::exchange(leaves, accesses[at]);
        best = std::min(best, brute_force(accesses, at + 1, resident, room));
        leaves = kept;
    }
    return best + 1;
}

TEST(Belady, EqualsBruteForce) {
    std::mt19937 random(2);
    for (int trial = 0; trial < 200; ++trial) {
        std::vector<ExpertId> accesses;
        const unsigned experts = 3 + random() % 3;
        for (int i = 0; i < 9; ++i)
            accesses.push_back({static_cast<int>(random() % 2), static_cast<int>(random() % experts)});
        for (const int room : {1, 2, 3})
            EXPECT_EQ(belady_misses(accesses, room), brute_force(accesses, 0, {}, static_cast<std::size_t>(room)))
                << "trial " << trial << ", room for " << room;
    }
}

TEST(Belady, NothingAndEverything) {
    EXPECT_EQ(belady_misses({}, 3), 0);
    const std::vector<ExpertId> same(5, ExpertId{1, 1});
    EXPECT_EQ(belady_misses(same, 1), 1);
    EXPECT_EQ(belady_misses(same, 0), 5);
}

}  // namespace
}  // namespace moestro::policy
