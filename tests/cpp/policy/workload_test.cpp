// DALI's swaps: a few at the end of a window, whatever a burst asks for.
#include "policy/workload.h"

#include <gtest/gtest.h>

#include "policy/replay.h"

namespace moestro::policy {
namespace {

TEST(Workload, ABurstChangesNoMoreThanAWindowMay) {
    constexpr int kCapacity = 18, kStaying = 16;  // two come and go
    EvictionSettings with;
    with.experts.layers.push_back({0, 64});
    const auto policy = make_eviction("workload", with);
    testing::Replay replay(*policy, kCapacity);
    const auto staying = [&] {
        int count = 0;
        for (int expert = 0; expert < kStaying; ++expert) count += replay.has({0, expert});
        return count;
    };
    for (int round = 0; round < 4; ++round)
        for (int expert = 0; expert < kStaying; ++expert) replay.run({{0, {expert}}});
    EXPECT_EQ(staying(), kStaying);
    EXPECT_EQ(replay.misses, kStaying);
    for (int window = 1; window <= 4; ++window) {
        for (int token = 0; token < kWorkloadWindow; ++token) replay.run({{0, {20 + token}}});
        EXPECT_GE(staying(), kStaying - kWorkloadSwaps * window) << "after window " << window;
    }
    EXPECT_LT(staying(), kStaying) << "what is used now does come in";
}

TEST(Workload, ASmallerCacheLetsTheColdestGo) {
    EvictionSettings with;
    with.experts.layers.push_back({0, 32});
    const auto policy = make_eviction("workload", with);
    policy->on_capacity(18);
    for (int expert = 0; expert < 16; ++expert) policy->on_insert({0, expert});
    for (int expert = 8; expert < 16; ++expert) policy->on_use({0, expert});
    policy->on_capacity(10);  // eight stay
    for (int gone = 0; gone < 8; ++gone) {
        const auto victim = policy->victim([](ExpertId) { return true; }, std::nullopt);
        ASSERT_LT(victim.value().expert, 8) << "not one of those used";
        policy->on_evict(*victim);
    }
}

}  // namespace
}  // namespace moestro::policy
