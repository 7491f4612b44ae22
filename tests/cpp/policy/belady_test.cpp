// The bound against every possible choice.
#include "policy/belady.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <utility>
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

// The least misses from group `at` on: every choice of what is kept after a group is tried out.
std::int64_t brute_force(const std::vector<std::vector<ExpertId>>& groups, std::size_t at,
                         const std::vector<ExpertId>& resident, std::size_t room, std::size_t first) {
    if (at == groups.size()) return 0;
    std::vector<ExpertId> candidates = resident;
    std::int64_t misses = 0;
    for (const ExpertId id : groups[at]) {
        if (std::find(resident.begin(), resident.end(), id) != resident.end()) continue;
        candidates.push_back(id);
        misses += at >= first;
    }
    std::int64_t best = std::numeric_limits<std::int64_t>::max();
    for (unsigned set = 0; set < 1u << candidates.size(); ++set) {
        std::vector<ExpertId> kept;
        for (std::size_t i = 0; i < candidates.size(); ++i)
            if (set >> i & 1) kept.push_back(candidates[i]);
        // Keeping less than one could is never better.
        if (kept.size() != std::min(room, candidates.size())) continue;
        best = std::min(best, brute_force(groups, at + 1, kept, room, first));
    }
    return misses + best;
}

TEST(Belady, OfGroupsEqualsBruteForce) {
    std::mt19937 random(6);
    bool differs = false;
    for (int trial = 0; trial < 150; ++trial) {
        std::vector<std::vector<ExpertId>> groups;
        std::vector<ExpertId> accesses;
        std::vector<std::size_t> ends;
        for (int group = 0; group < 6; ++group) {
            auto& ids = groups.emplace_back();
            for (std::int32_t expert = 0; expert < 5; ++expert)
                if (random() % 5 < 2) ids.push_back({group % 2, expert});
            accesses.insert(accesses.end(), ids.begin(), ids.end());
            ends.push_back(accesses.size());
        }
        for (const int room : {0, 1, 2, 3})
            for (const std::size_t first : {0, 3}) {
                const std::int64_t misses = belady_misses(accesses, room, ends, first);
                ASSERT_EQ(misses, brute_force(groups, 0, {}, static_cast<std::size_t>(room), first))
                    << "trial " << trial << ", room for " << room << ", from " << first;
                if (first == 0) differs |= misses != belady_misses(accesses, room);
            }
    }
    EXPECT_TRUE(differs) << "accesses that are made together are not the same as one after the other";
}

TEST(Belady, WhatIsNotCountedMayBeMissedForTheRest) {
    // With room for one, 1 is kept for the end, though 2 is wanted sooner.
    const std::vector<ExpertId> accesses{{0, 1}, {0, 2}, {0, 2}, {0, 1}};
    EXPECT_EQ(belady_misses(accesses, 1), 3);
    EXPECT_EQ(belady_misses(accesses, 1, {}, 3), 0);
}

TEST(Belady, AGroupSeesWhatWasThereBefore) {
    const std::vector<ExpertId> accesses{{0, 1}, {0, 2}, {0, 3}, {0, 1}, {0, 2}, {0, 3}};
    const std::size_t ends[] = {3, 6};
    for (const int room : {0, 1, 2, 3}) EXPECT_EQ(belady_misses(accesses, room, ends), 6 - room);
    EXPECT_EQ(belady_misses(accesses, 2, ends, 1), 1);
    EXPECT_EQ(belady_misses(accesses, 2, ends, 2), 0) << "nothing is counted past the end";
    const std::size_t alone[] = {1, 2, 3, 4, 5, 6};
    EXPECT_EQ(belady_misses(accesses, 2, alone), belady_misses(accesses, 2));
}

TEST(Belady, NothingAndEverything) {
    EXPECT_EQ(belady_misses({}, 3), 0);
    const std::vector<ExpertId> same(5, ExpertId{1, 1});
    EXPECT_EQ(belady_misses(same, 1), 1);
    EXPECT_EQ(belady_misses(same, 0), 5);
}

}  // namespace
}  // namespace moestro::policy
