// What every policy keeps to, and what each makes of traces that were worked out by hand.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <string>

#include "base/error.h"
#include "policy/belady.h"
#include "policy/replay.h"

namespace moestro::policy {
namespace {

using testing::Access;
using testing::flat;
using testing::one_by_one;
using testing::Replay;
using testing::Token;

constexpr int kLayers = 7, kExperts = 6;

EvictionSettings settings(int layers = kLayers, int experts = kExperts) {
    EvictionSettings made;
    for (int layer = 0; layer < layers; ++layer) made.experts.layers.push_back({2 * layer, experts});
    made.frequencies.resize(static_cast<std::size_t>(layers * experts));
    std::iota(made.frequencies.begin(), made.frequencies.end(), 1.0);
    return made;
}

// Tokens of two experts a layer, some experts likelier than others.
std::vector<Token> random_trace(int tokens, int layers, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Token> made;
    for (int t = 0; t < tokens; ++t) {
        Token token;
        for (int layer = 0; layer < layers; ++layer) {
            std::set<std::int32_t> experts;
            while (experts.size() < 2)
                experts.insert(static_cast<std::int32_t>(std::min(random() % kExperts, random() % kExperts)));
            Access access{2 * layer, {experts.begin(), experts.end()}, {}};
            for (std::int32_t e = 0; e < 4; ++e)
                access.best.push_back({(e + static_cast<std::int32_t>(random() % kExperts)) % kExperts,
                                       1.0f / static_cast<float>(e + 2)});
            std::set<std::int32_t> seen;
            std::erase_if(access.best, [&](const ScoredExpert& one) { return !seen.insert(one.expert).second; });
            token.push_back(std::move(access));
        }
        made.push_back(std::move(token));
    }
    return made;
}

class Contract : public ::testing::TestWithParam<std::string> {};

TEST_P(Contract, GivesUpAResidentEvictableExpertWheneverThereIsOne) {
    const auto policy = make_eviction(GetParam(), settings());
    EXPECT_EQ(policy->name(), GetParam());
    std::mt19937 random(5);
    std::set<ExpertId> resident;
    policy->on_capacity(12);
    for (int step = 0; step < 10000; ++step) {
        const ExpertId id{2 * static_cast<int>(random() % kLayers), static_cast<int>(random() % kExperts)};
        const unsigned hidden = random() % 5;
        const Evictable evictable = [&](ExpertId one) {
            return resident.contains(one) && (static_cast<unsigned>(one.layer + one.expert) % 5) != hidden;
        };
        const bool any = std::any_of(resident.begin(), resident.end(), evictable);
        const std::optional<ExpertId> incoming = resident.contains(id) ? std::nullopt : std::optional(id);
        const auto victim = policy->victim(evictable, incoming);
        ASSERT_EQ(victim.has_value(), any) << "step " << step;
        if (any) {
            ASSERT_TRUE(evictable(*victim)) << "step " << step;
        }
        ASSERT_EQ(policy->victim(evictable, incoming), victim) << "asking changes nothing; step " << step;
        switch (random() % 6) {
            case 0:
                if (victim) {
                    policy->on_evict(*victim);
                    resident.erase(*victim);
                }
                break;
            case 1:
                if (incoming) {
                    policy->on_insert(id);
                    resident.insert(id);
                }
                break;
            case 2:
                if (random() % 20 == 0) policy->on_capacity(2 + static_cast<int>(random() % 40));
                break;
            case 3:
                if (policy->wants_scores()) {
                    const ScoredExpert best[] = {{id.expert, 0.5f}, {(id.expert + 1) % kExperts, 0.25f}};
                    policy->on_scores(id.layer, best);
                }
                break;
            default:
                policy->on_use(id);
        }
    }
}

TEST_P(Contract, IsAFunctionOfWhatItWasTold) {
    const std::vector<Token> tokens = random_trace(200, kLayers, 3);
    const auto one = make_eviction(GetParam(), settings()), other = make_eviction(GetParam(), settings());
    Replay first(*one, 15), second(*other, 15);
    for (const Token& token : tokens) {
        first.run(token);
        second.run(token);
        ASSERT_EQ(first.resident, second.resident);
    }
}

TEST_P(Contract, MissesAtLeastWhatCannotBeAvoided) {
    for (const int capacity : {3, 6, 13, 27, 42}) {
        const std::vector<Token> tokens = random_trace(120, kLayers, static_cast<unsigned>(capacity));
        const std::vector<ExpertId> accesses = flat(tokens);
        const auto policy = make_eviction(GetParam(), settings());
        Replay replay(*policy, capacity);
        const std::int64_t misses = replay.run(tokens), least = belady_misses(accesses, capacity);
        EXPECT_GE(misses, least) << "capacity " << capacity;
        if (capacity == kLayers * kExperts) {
            EXPECT_EQ(misses, least) << "all of them fit";
        }
    }
}

INSTANTIATE_TEST_SUITE_P(Every, Contract,
                         ::testing::Values("lru", "lfu", "lrfu", "score", "shallow", "static", "workload"),
                         [](const auto& name) { return name.param; });

TEST(Eviction, TheContractIsHeldToByAll) {
    const std::set<std::string_view> known(eviction_names().begin(), eviction_names().end());
    EXPECT_EQ(known, (std::set<std::string_view>{"lru", "lfu", "lrfu", "score", "shallow", "static", "workload"}));
}

std::int64_t misses(std::string_view name, const std::vector<Token>& tokens, int capacity,
                    const EvictionSettings& with = settings(1, kExperts)) {
    const auto policy = make_eviction(name, with);
    return Replay(*policy, capacity).run(tokens);
}

TEST(Eviction, TracesWorkedOutByHand) {
    // Room for two. lru keeps {1,2} {2,3} {3,1} {1,2} {2,4} {4,1}: every access but the repeated 2 misses.
    const std::vector<Token> turning = one_by_one(0, {1, 2, 3, 1, 2, 2, 4, 1});
    EXPECT_EQ(misses("lru", turning, 2), 7);
    // 1 and 2 once each, 3 for the older 1, 1 for the older 2, then 2 for 3 (once used; 1 twice): the second 2 hits;
    // 4 for 1 or 2, of two uses each 1 is the older; 1 for 4, used once.
    EXPECT_EQ(misses("lfu", turning, 2), 7);
    // The last two uses cannot both be kept for: 1 2 and 3 come, 1 stays instead of 3, 2 comes back, 4 is not kept.
    EXPECT_EQ(belady_misses(flat(turning), 2), 4) << "1, 2, 3 and 4 once each: 3 and 4 pass by";
    // A favourite among others: what is used often survives a scan with lfu and not with lru.
    const std::vector<Token> scan = one_by_one(0, {0, 0, 0, 1, 2, 3, 0, 4, 5, 0});
    EXPECT_EQ(misses("lru", scan, 2), 8);  // 0 1 2 3 0 4 5 0
    EXPECT_EQ(misses("lfu", scan, 2), 6);  // 0 1 2 3 4 5
    // static: worth 1, 2, ..., 6 in a trace: 5 and 4 stay once they came.
    EXPECT_EQ(misses("static", one_by_one(0, {5, 4, 0, 5, 1, 4, 2, 5}), 2), 6) << "5 4 0 1 4 2";
    EXPECT_EQ(misses("static", one_by_one(0, {5, 4, 0, 5, 1, 5, 2, 5}), 2), 5) << "5 0 1 2 and 4: only 5 never leaves";
}

// The recurrence as the paper prints it, over all experts at every token.
TEST(Score, IsTheRecurrence) {
    constexpr double kShare = 0.5;
    std::mt19937 random(8);
    const auto policy = make_eviction("score", settings(2, kExperts));
    std::map<ExpertId, double> scores;
    std::map<ExpertId, int> touched;
    int now = 0;
    const auto insert = [&](ExpertId id) {
        policy->on_insert(id);
        touched[id] = ++now;
    };
    for (int layer : {0, 2})
        for (int e = 0; e < kExperts; ++e) insert({layer, e});
    for (int token = 0; token < 400; ++token) {
        for (int layer : {0, 2}) {
            for (int e = 0; e < kExperts; ++e) scores[{layer, e}] *= 1 - kShare;
            std::vector<ScoredExpert> best;
            for (int e = 0; e < kExperts; ++e)
                if (random() % 2) best.push_back({e, static_cast<float>(random() % 1000) / 1000.0f});
            for (const auto& [e, score] : best) scores[{layer, e}] += kShare * static_cast<double>(score);
            policy->on_scores(layer, best);
        }
        const auto victim = policy->victim([](ExpertId) { return true; }, std::nullopt);
        double least = 1e9;
        for (const auto& [id, score] : scores) least = std::min(least, score);
        ASSERT_NEAR(scores[victim.value()], least, 1e-12) << "token " << token;
    }
}

// Every use counts 1, and less by the same share with each token since.
TEST(Lrfu, IsTheSumOfFadingUses) {
    constexpr double kKept = 1 - 1.0 / 32;
    std::mt19937 random(9);
    const auto policy = make_eviction("lrfu", settings(2, kExperts));
    std::map<ExpertId, double> sums;
    for (int layer : {0, 2})
        for (int e = 0; e < kExperts; ++e) {
            policy->on_insert({layer, e});
            sums[{layer, e}] = 0;
        }
    for (int token = 0; token < 400; ++token) {
        for (auto& [id, sum] : sums) sum *= kKept;
        policy->on_token();
        for (int layer : {0, 2})
            for (int e = 0; e < kExperts; ++e) {
                if (static_cast<int>(random() % kExperts) < e) continue;
                policy->on_use({layer, e});
                sums[{layer, e}] += 1;
            }
        const auto victim = policy->victim([](ExpertId) { return true; }, std::nullopt);
        double least = 1e9;
        for (const auto& [id, sum] : sums) least = std::min(least, sum);
        ASSERT_NEAR(sums[victim.value()], least, 1e-9) << "token " << token;
    }
}

TEST(Eviction, StaticNeedsATrace) {
    EvictionSettings without = settings();
    without.frequencies.clear();
    try {
        make_eviction("static", without);
        ADD_FAILURE() << "made without a trace";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        EXPECT_NE(std::string(error.what()).find("42 frequencies"), std::string::npos) << error.what();
    }
}

}  // namespace
}  // namespace moestro::policy
