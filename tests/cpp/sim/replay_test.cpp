#include "sim/replay.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <string>

#include "base/error.h"
#include "policy/planner.h"
#include "policy/random_layers.h"
#include "support/refusal.h"

namespace moestro::sim {
namespace {

using policy::RoutingRecord;
using Rows = std::vector<std::vector<std::int32_t>>;  // what each row chose

constexpr std::size_t kRecord = 4096;

// A record that is written down step by step: by layer, the rows' choices.
class Trace {
  public:
    Trace(int layers, int experts, int top_k, int kept = 0) {
        for (int i = 0; i < layers; ++i)
            record.layers.push_back({.layer = 2 * i + 1,
                                     .experts = experts,
                                     .top_k = top_k,
                                     .kept = std::max(top_k, kept),
                                     .chosen = {},
                                     .best = {}});
    }

    // Scores: the chosen ones first, all alike, then others.
    void step(const std::vector<Rows>& by_layer, std::int32_t token = -1) {
        const int rows = static_cast<int>(by_layer.front().size());
        for (std::size_t i = 0; i < by_layer.size(); ++i)
            for (const std::vector<std::int32_t>& row : by_layer[i]) {
                RoutingRecord::Layer& layer = record.layers[i];
                layer.chosen.insert(layer.chosen.end(), row.begin(), row.end());
                for (const policy::ScoredExpert& one : scores(layer, row, 0)) layer.best.push_back(one);
            }
        record.steps.push_back({.rows = rows, .cache_bytes = 0});
        record.tokens.insert(record.tokens.end(), static_cast<std::size_t>(rows), token);
        record.accepted.insert(record.accepted.end(), static_cast<std::size_t>(rows), 1);
    }

    // What routers foresaw one layer before: what they would choose, each expert off by `shift`.
    void foresee(int shift) {
        for (std::size_t i = 1; i < record.layers.size(); ++i) {
            RoutingRecord::Layer& layer = record.layers[i];
            const auto width = static_cast<std::size_t>(layer.top_k);
            std::vector<policy::ScoredExpert>& ahead = layer.ahead.emplace_back();
            for (std::size_t at = 0; at < layer.chosen.size(); at += width) {
                const auto row = std::span(layer.chosen).subspan(at, width);
                for (const auto& one : scores(layer, {row.begin(), row.end()}, shift)) ahead.push_back(one);
            }
        }
    }

    RoutingRecord record;

  private:
    static std::vector<policy::ScoredExpert> scores(const RoutingRecord::Layer& layer,
                                                    const std::vector<std::int32_t>& row, int shift) {
        std::vector<policy::ScoredExpert> made;
        std::set<std::int32_t> taken;
        for (const std::int32_t expert : row) {
            made.push_back({(expert + shift) % layer.experts, 0.2f});
            taken.insert(made.back().expert);
        }
        for (std::int32_t expert = 0; static_cast<int>(made.size()) < layer.kept; ++expert)
            if (!taken.contains(expert)) made.push_back({expert, 0.01f});
        return made;
    }
};

// A CPU behind an SSD.
policy::LaneCosts ssd(policy::Line cpu, double read, double cpu_start = 0) {
    policy::LaneCosts costs;
    costs.cpu = cpu;
    costs.cpu_start = cpu_start;
    costs.ssd = read;
    return costs;
}

ReplayOptions on(const RoutingRecord& record, const policy::LaneCosts& costs, int slots) {
    ReplayOptions options;
    options.record_bytes.assign(record.layers.size(), kRecord);
    options.costs.assign(record.layers.size(), costs);
    options.cache_bytes = static_cast<std::size_t>(slots) * kRecord;
    return options;
}

std::uint64_t misses(const ReplayResult& result) {
    std::uint64_t all = 0;
    for (const ReplayResult::Layer& layer : result.layers) all += layer.misses;
    return all;
}

TEST(Replay, TwoStepsWorkedOutByHand) {
    Trace trace(2, 3, 1);
    trace.step({{{0}}, {{1}}});
    trace.step({{{0}}, {{2}}});
    ReplayOptions options = on(trace.record, ssd({10, 1}, 100), 2);
    options.step = {5, 2};
    options.layer = {2, 1};
    // A step takes 7 and each layer 3 beside its experts, a read 100, an expert 11. Three of four are read; for the
    // last one layer 1's expert 0 goes, which was used before layer 3's expert 1.
    const ReplayResult result = replay(trace.record, options);
    EXPECT_EQ(result.time, 2 * (7 + 3 + 3) + 3 * 100 + 4 * 11);
    EXPECT_EQ(result.stall, 300);
    EXPECT_EQ(result.cpu_busy, 44);
    EXPECT_EQ(result.device_busy, 0);
    EXPECT_EQ(result.link_busy, 300);
    ASSERT_EQ(result.layers.size(), 2u);
    EXPECT_EQ(result.layers[0].hits, 1u);
    EXPECT_EQ(result.layers[0].misses, 1u);
    EXPECT_EQ(result.layers[1].hits, 0u);
    EXPECT_EQ(result.layers[1].misses, 2u);
    EXPECT_EQ(result.layers[0].joined + result.layers[1].joined, 0u);
    EXPECT_EQ(result.evictions, 1u);
    EXPECT_EQ(result.loads, 3u);
    EXPECT_EQ(result.bytes, 3 * kRecord);
    EXPECT_EQ(result.steps, 2);
    EXPECT_EQ(result.rows, 2);
    EXPECT_TRUE(result.prefetch.empty());
    EXPECT_EQ(belady_misses(trace.record, {1, 2, 3}), (std::vector<std::int64_t>{3, 3, 3}));

    options.first_step = 1;
    const ReplayResult second = replay(trace.record, options);
    EXPECT_EQ(second.time, 7 + 3 + 3 + 100 + 2 * 11) << "the cache is warm by then";
    EXPECT_EQ(second.layers[0].hits, 1u);
    EXPECT_EQ(second.layers[0].misses, 0u);
    EXPECT_EQ(second.layers[1].misses, 1u);
    EXPECT_EQ(second.evictions, 1u);
    EXPECT_EQ(second.loads, 1u);
    EXPECT_EQ(second.bytes, kRecord);
    EXPECT_EQ(second.stall, 100);
    EXPECT_EQ(second.link_busy, 100);
    EXPECT_EQ(second.steps, 1);
    EXPECT_EQ(second.rows, 1);
    EXPECT_EQ(belady_misses(trace.record, {2}, 1), (std::vector<std::int64_t>{1}));
    options.first_step = 2;
    EXPECT_EQ(replay(trace.record, options).time, 0) << "nothing is left to count";
    EXPECT_EQ(belady_misses(trace.record, {2}, 2), (std::vector<std::int64_t>{0}));
}

TEST(Replay, HitsAreComputedWhileMissesLoad) {
    Trace trace(1, 4, 3);
    trace.step({{{0, 1, 2}}});
    trace.step({{{1, 2, 3}}});
    // 0 to 2 come at 100, 200 and 300 and take 20 each: 320. Then 3 comes at 420, while 1 and 2 are computed: 440.
    ReplayOptions options = on(trace.record, ssd({20, 0}, 100), 4);
    const ReplayResult quick = replay(trace.record, options);
    EXPECT_EQ(quick.time, 440);
    EXPECT_EQ(quick.stall, 100 + 80 + 80 + 60);
    // Slow kernels: each arrives while the one before is computed. 100 + 450, then 3 * 150 with nothing to wait for.
    options.costs.assign(1, ssd({150, 0}, 100));
    const ReplayResult slow = replay(trace.record, options);
    EXPECT_EQ(slow.time, 100 + 450 + 450);
    EXPECT_EQ(slow.stall, 100);
    EXPECT_EQ(slow.link_busy, 400);
    // The first expert of a layer takes longer.
    options.costs.assign(1, ssd({150, 0}, 100, 30));
    EXPECT_EQ(replay(trace.record, options).time, 100 + 480 + 480);
    // Two slots: two reads are under way, and each that is computed lets the next one begin. 100 + 3 * 150 as before;
    // then 2 is there (0 gave way to it), and 1 and 3 come while it is computed.
    options.costs.assign(1, ssd({150, 0}, 100));
    options.cache_bytes = 2 * kRecord;
    const ReplayResult tight = replay(trace.record, options);
    EXPECT_EQ(tight.layers[0].hits + tight.layers[0].misses, 6u);
    EXPECT_EQ(tight.layers[0].misses, tight.loads);
    EXPECT_EQ(tight.evictions, tight.loads - 2);
}

TEST(Replay, RowsShareTheirExperts) {
    Trace trace(1, 4, 2);
    trace.step({{{0, 1}, {0, 2}, {0, 1}}});
    const ReplayResult result = replay(trace.record, on(trace.record, ssd({10, 1}, 0), 4));
    EXPECT_EQ(result.layers[0].misses, 3u) << "each expert once";
    EXPECT_EQ(result.time, (10 + 3) + (10 + 2) + (10 + 1));
    EXPECT_EQ(result.rows, 3);
    EXPECT_EQ(result.loads, 3u);
}

TEST(Replay, TheCacheFollowsTheRecordStepByStep) {
    Trace trace(1, 4, 1);
    for (const int expert : {0, 1, 2, 0, 1, 2}) trace.step({{{expert}}});
    ReplayOptions options = on(trace.record, ssd({10, 0}, 100), 0);
    options.cache_bytes.reset();
    const std::size_t slots[] = {3, 3, 3, 2, 4, 4};
    for (std::size_t i = 0; i < 6; ++i) trace.record.steps[i].cache_bytes = slots[i] * kRecord;
    // Full with 0, 1 and 2; with two slots 0 goes and comes back for 1; then there is room for 1, and 2 is there.
    const ReplayResult result = replay(trace.record, options);
    EXPECT_EQ(result.layers[0].misses, 5u);
    EXPECT_EQ(result.layers[0].hits, 1u);
    EXPECT_EQ(result.evictions, 2u);
    options.max_slots = 2;  // 0 1 | 2 for 0, 0 for 1, 1 for 2, 2 for 0
    EXPECT_EQ(replay(trace.record, options).evictions, 4u);
}

policy::LaneCosts whole(policy::LaneCosts costs) {
    for (double* value : {&costs.cpu.fixed, &costs.cpu.per_unit, &costs.cpu_start, &costs.device.fixed,
                          &costs.device.per_unit, &costs.link, &costs.ssd})
        *value = std::round(*value);
    return costs;
}

TEST(Replay, WithADeviceALayerTakesWhatItsPlanSays) {
    for (const std::string_view name : policy::planner_names()) {
        const auto planner = policy::make_planner(name);
        policy::testing::RandomLayers random(11);
        int on_cpu = 0, over_the_link = 0;
        for (int trial = 0; trial < 200; ++trial) {
            const int experts = 2 + random.below(7);
            ReplayOptions options;
            Trace trace(1, experts, 1);
            const policy::LaneCosts costs = whole(random.next(1).costs);
            // A static placement is there from the start.
            std::vector<bool> resident(static_cast<std::size_t>(experts), name == "static");
            double expected = 0;
            // Where spare room on the device fills up, later steps find what no plan sent there.
            const int steps = planner->fills_device() ? 1 : 3;
            for (int step = 0; step < steps; ++step) {
                Rows rows;
                const int count = 1 + random.below(12);
                for (int row = 0; row < count; ++row) rows.push_back({random.below(experts)});
                trace.step({rows});
                std::vector<policy::WorkItem> items;
                for (int expert = 0; expert < experts; ++expert) {
                    const auto used = std::count(rows.begin(), rows.end(), std::vector<std::int32_t>{expert});
                    const bool here = resident[static_cast<std::size_t>(expert)];
                    if (used > 0)
                        items.push_back(
                            {expert, static_cast<int>(used), here ? policy::Where::device : policy::Where::host});
                }
                policy::LayerPlan plan;
                planner->plan({items, costs, {}}, plan);
                expected += plan.makespan;
                for (const policy::Operation& one : plan.operations) {
                    on_cpu += one.lane == policy::Lane::cpu;
                    over_the_link += one.lane == policy::Lane::link;
                    if (one.lane == policy::Lane::device) resident[static_cast<std::size_t>(one.expert)] = true;
                }
            }
            options = on(trace.record, costs, std::max(2, experts));
            options.planner = name;
            const ReplayResult result = replay(trace.record, options);
            ASSERT_EQ(static_cast<double>(result.time), expected) << name << ", trial " << trial;
            ASSERT_EQ(result.evictions, 0u);
        }
        EXPECT_EQ(on_cpu + over_the_link > 0, name != "static");
        if (name == "hybrid") {
            EXPECT_GT(on_cpu, 0);
            EXPECT_GT(over_the_link, 0);
        }
    }
}

// Rows of different experts, with scores.
RoutingRecord random_trace(int layers, int experts, int top_k, int steps, int most_rows, unsigned seed) {
    std::mt19937 random(seed);
    Trace trace(layers, experts, top_k, 2 * top_k);
    for (int step = 0; step < steps; ++step) {
        std::vector<Rows> by_layer(static_cast<std::size_t>(layers));
        const unsigned rows = 1 + random() % static_cast<unsigned>(most_rows);
        for (Rows& all : by_layer)
            for (unsigned row = 0; row < rows; ++row) {
                std::set<std::int32_t> chosen;
                while (static_cast<int>(chosen.size()) < top_k)
                    chosen.insert(static_cast<std::int32_t>(std::min(random() % static_cast<unsigned>(experts),
                                                                     random() % static_cast<unsigned>(experts))));
                all.emplace_back(chosen.begin(), chosen.end());
            }
        trace.step(by_layer, static_cast<std::int32_t>(random() % 50));
    }
    for (std::size_t row = 0; row < trace.record.accepted.size(); ++row) trace.record.accepted[row] = random() % 5 != 0;
    return trace.record;
}

std::vector<double> frequencies(const RoutingRecord& record) {
    std::vector<double> all;
    for (const RoutingRecord::Layer& layer : record.layers)
        for (std::int32_t expert = 0; expert < layer.experts; ++expert)
            all.push_back(static_cast<double>(std::count(layer.chosen.begin(), layer.chosen.end(), expert)));
    return all;
}

TEST(Replay, AStaticPlacementIsOnTheDeviceFromTheStart) {
    Trace trace(1, 4, 1);
    trace.step({{{0}}});
    trace.step({{{1}}});
    trace.step({{{0}}});
    policy::LaneCosts costs;
    costs.cpu = {100, 0};
    costs.device = {10, 0};
    costs.link = 50;
    costs.has_device = true;
    ReplayOptions options = on(trace.record, costs, 2);
    options.policy = options.planner = "static";
    options.frequencies = {5, 1, 0, 3};
    const ReplayResult result = replay(trace.record, options);
    EXPECT_EQ(result.layers.front().hits, 2u);
    EXPECT_EQ(result.layers.front().misses, 1u) << "1 is used less than 0 and 3, which fill the device";
    EXPECT_EQ(result.loads, 0u) << "nothing crosses the link";
    EXPECT_EQ(result.time, 10 + 100 + 10);
}

TEST(Replay, NoPolicyMissesLessThanCanBeAvoided) {
    for (const int most_rows : {1, 4}) {
        const RoutingRecord record = random_trace(3, 8, 2, 80, most_rows, 5);
        const std::vector<int> slots{2, 3, 5, 9, 16, 24};
        const std::vector<std::int64_t> least = belady_misses(record, slots);
        const std::vector<std::int64_t> least_later = belady_misses(record, slots, 40);
        EXPECT_EQ(least.back(), 24) << "each of them once";
        EXPECT_EQ(least_later.back(), 0);
        for (const std::string_view policy : policy::eviction_names())
            for (std::size_t i = 0; i < slots.size(); ++i) {
                ReplayOptions options = on(record, ssd({10, 1}, 100), slots[i]);
                options.policy = policy;
                if (policy == "static") options.frequencies = frequencies(record);
                const ReplayResult result = replay(record, options);
                EXPECT_GE(static_cast<std::int64_t>(misses(result)), least[i]) << policy << ", " << slots[i];
                EXPECT_EQ(misses(result), result.loads);
                if (i + 1 == slots.size()) {
                    EXPECT_EQ(static_cast<std::int64_t>(misses(result)), least[i]) << "all of them fit";
                }
            }
    }
}

TEST(Replay, IsAFunctionOfItsOptions) {
    RoutingRecord record = random_trace(3, 8, 2, 60, 3, 9);
    for (RoutingRecord::Layer& layer : record.layers) layer.ahead = {layer.best};
    for (const char* prefetch : {"none", "next_gate", "impact", "activation", "pre_gated"}) {
        ReplayOptions options = on(record, ssd({90, 10}, 100), 7);
        options.layer = {100, 0};
        options.prefetch = prefetch;
        options.predictor.top_k = {2, 2, 2};
        const ReplayResult one = replay(record, options), other = replay(record, options);
        EXPECT_EQ(one.time, other.time);
        EXPECT_EQ(one.loads, other.loads);
        EXPECT_EQ(one.evictions, other.evictions);
        EXPECT_EQ(one.stall, other.stall);
        ASSERT_EQ(one.prefetch.size(), prefetch == std::string("none") ? 0u : 3u);
        for (std::size_t i = 0; i < one.prefetch.size(); ++i) {
            EXPECT_EQ(one.prefetch[i].used_bytes, other.prefetch[i].used_bytes);
            EXPECT_EQ(one.prefetch[i].started, other.prefetch[i].started);
        }
        EXPECT_EQ(one.loads * kRecord, one.bytes);
    }
}

// ---- planted traces -------------------------------------------------------------------------------------------------

constexpr int kPlantedLayers = 4, kPlantedExperts = 16;

// Steps of one row in which every layer uses other experts than the step before: a small cache is of little use.
Trace planted(int steps, int top_k, int kept) {
    std::mt19937 random(3);
    Trace trace(kPlantedLayers, kPlantedExperts, top_k, kept);
    for (int step = 0; step < steps; ++step) {
        std::vector<Rows> by_layer;
        for (int layer = 0; layer < kPlantedLayers; ++layer) {
            std::set<std::int32_t> chosen;
            while (static_cast<int>(chosen.size()) < top_k)
                chosen.insert(static_cast<std::int32_t>(random() % kPlantedExperts));
            by_layer.push_back({{chosen.begin(), chosen.end()}});
        }
        trace.step(by_layer);
    }
    return trace;
}

// Reading an expert takes as long as computing one; attention gives the disk time.
ReplayOptions machine(const RoutingRecord& record, const std::string& prefetch) {
    ReplayOptions options = on(record, ssd({100, 0}, 100), 12);
    options.layer = {300, 0};
    options.prefetch = prefetch;
    for (const RoutingRecord::Layer& layer : record.layers) options.predictor.top_k.push_back(layer.top_k);
    return options;
}

TEST(Replay, AGateThatForeseesEverythingSavesTime) {
    for (const std::string prefetch : {"next_gate", "pre_gated"}) {
        // next_gate expects near misses too, where they are known; without them, exactly what is chosen.
        Trace trace = planted(200, 2, prefetch == "pre_gated" ? 4 : 2);
        trace.foresee(0);
        const ReplayResult without = replay(trace.record, machine(trace.record, "none"));
        const ReplayResult with = replay(trace.record, machine(trace.record, prefetch));
        ASSERT_EQ(with.prefetch.size(), static_cast<std::size_t>(kPlantedLayers));
        EXPECT_EQ(with.prefetch[0].hinted, 0u) << "nobody foresees the first layer";
        EXPECT_EQ(with.prefetch[0].needed, 400u);
        for (std::size_t layer = 1; layer < with.prefetch.size(); ++layer) {
            const exec::PrefetchCounters& counted = with.prefetch[layer];
            EXPECT_EQ(counted.steps, 200u);
            EXPECT_EQ(counted.needed, 400u);
            EXPECT_EQ(counted.foreseen, 400u) << "recall is 1";
            EXPECT_EQ(counted.hinted, 400u) << "and so is precision";
            EXPECT_GT(counted.used_bytes, 0u);
            EXPECT_EQ(counted.wasted_bytes, 0u);
            EXPECT_EQ(counted.times_off, 0u);
        }
        EXPECT_LT(with.time, without.time);
        EXPECT_LT(with.stall, without.stall);
        EXPECT_LT(misses(with), misses(without));
        EXPECT_EQ(with.cpu_busy, without.cpu_busy);
    }
}

TEST(Replay, CountsOfHintsBeginWithTheFirstStepToo) {
    Trace trace = planted(100, 2, 2);
    trace.foresee(0);
    ReplayOptions options = machine(trace.record, "next_gate");
    const ReplayResult all = replay(trace.record, options);
    options.first_step = 70;
    const ReplayResult rest = replay(trace.record, options);
    EXPECT_EQ(rest.prefetch[1].steps, 30u);
    EXPECT_EQ(rest.prefetch[1].needed, 60u);
    EXPECT_LT(rest.prefetch[1].started, all.prefetch[1].started);
    EXPECT_LE(rest.prefetch[1].used_bytes / kRecord, rest.prefetch[1].started);
}

TEST(Replay, AGateThatIsAlwaysWrongIsOffSoon) {
    Trace trace = planted(64, 1, 1);
    trace.foresee(1);
    const ReplayResult result = replay(trace.record, machine(trace.record, "next_gate"));
    for (std::size_t layer = 1; layer < result.prefetch.size(); ++layer) {
        const exec::PrefetchCounters& counted = result.prefetch[layer];
        EXPECT_EQ(counted.foreseen, 0u);
        EXPECT_EQ(counted.hinted, 64u);
        EXPECT_EQ(counted.used_bytes, 0u);
        EXPECT_GT(counted.started, 0u);
        EXPECT_TRUE(counted.off);
        EXPECT_EQ(counted.times_off, 1u);
    }
    EXPECT_FALSE(result.prefetch[0].off);
}

// Every token uses the experts that its id says, one further in each layer.
Trace chain(int steps, int ids) {
    Trace trace(kPlantedLayers, kPlantedExperts, 1);
    for (int step = 0; step < steps; ++step) {
        const int id = step % ids;
        std::vector<Rows> by_layer;
        for (int layer = 0; layer < kPlantedLayers; ++layer) by_layer.push_back({{(id + layer) % kPlantedExperts}});
        trace.step(by_layer, id);
    }
    return trace;
}

TEST(Replay, TransitionKnowsAChainFromItsTrace) {
    const Trace learnt = chain(160, kPlantedExperts), trace = chain(48, kPlantedExperts);
    ReplayOptions options = machine(trace.record, "transition");
    options.predictor.trace.top_k = 1;
    options.predictor.trace.tokens = learnt.record.tokens;
    for (const RoutingRecord::Layer& layer : learnt.record.layers)
        options.predictor.trace.chosen.insert(options.predictor.trace.chosen.end(), layer.chosen.begin(),
                                              layer.chosen.end());
    const ReplayResult result = replay(trace.record, options);
    for (const exec::PrefetchCounters& counted : result.prefetch) {
        EXPECT_EQ(counted.needed, 48u);
        EXPECT_EQ(counted.foreseen, 48u) << "the first layer, too: the token says it";
        EXPECT_EQ(counted.times_off, 0u);
        EXPECT_GT(counted.used_bytes, 0u);
    }
    EXPECT_LT(result.time, replay(trace.record, machine(trace.record, "none")).time);
}

TEST(Replay, ActivationKnowsAChainOnceItHasSeenIt) {
    const Trace trace = chain(4 * kPlantedExperts, kPlantedExperts);
    ReplayOptions options = machine(trace.record, "activation");
    const ReplayResult all = replay(trace.record, options);
    for (std::size_t layer = 1; layer < all.prefetch.size(); ++layer) {
        EXPECT_EQ(all.prefetch[layer].needed, 64u);
        EXPECT_EQ(all.prefetch[layer].foreseen, 48u) << "all but each one's first time";
        EXPECT_GT(all.prefetch[layer].used_bytes, 0u);
    }
    EXPECT_EQ(all.prefetch[0].hinted, 0u) << "before the first layer nothing has been seen";
    options.first_step = kPlantedExperts;
    const ReplayResult later = replay(trace.record, options);
    for (std::size_t layer = 1; layer < later.prefetch.size(); ++layer) {
        EXPECT_EQ(later.prefetch[layer].needed, 48u);
        EXPECT_EQ(later.prefetch[layer].foreseen, 48u);
    }
}

// ---- errors ---------------------------------------------------------------------------------------------------------

TEST(Replay, RecordsThatContradictThemselvesAreRefused) {
    const RoutingRecord good = random_trace(2, 4, 2, 5, 2, 1);
    const auto said = [&](const std::function<void(RoutingRecord&, ReplayOptions&)>& spoil) {
        RoutingRecord record = good;
        ReplayOptions options = on(good, ssd({10, 1}, 100), 4);
        options.prefetch = "next_gate";
        spoil(record, options);
        return testing::refusal([&] { replay(record, options); });
    };
    const auto says = [](const std::string& message, const char* part) {
        return message.find(part) != std::string::npos;
    };
    EXPECT_EQ(said([](RoutingRecord&, ReplayOptions&) {}), "accepted");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.layers.clear(); }), "no layers with experts");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.tokens.pop_back(); }), "tokens of");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.accepted.push_back(1); }), "acceptance of");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { ++r.steps[1].rows; }), "rows");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.steps.push_back({}); }), "has 0 rows");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) {
                     r.steps[1].rows += r.steps[0].rows + 1;
                     r.steps[0].rows = -1;
                 }),
                 "has -1 rows");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.layers[1].chosen.pop_back(); }), "layer 3");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.layers[1].chosen[3] = 4; }), "expert 4 of 4");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.layers[1].chosen[3] = -1; }), "expert -1 of 4");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.layers[0].best[0].expert = 9; }), "expert 9 of 4");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { r.layers[0].best.pop_back(); }), "scores");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) {
                     r.layers[1].ahead = {r.layers[1].best};
                     r.layers[1].ahead[0].pop_back();
                 }),
                 "foreseen");
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) {
                     r.layers[1].ahead = {r.layers[1].best};
                     r.layers[1].ahead[0][1].expert = -1;
                 }),
                 "expert -1 of 4");
    EXPECT_EQ(said([](RoutingRecord& r, ReplayOptions&) { r.layers[1].ahead = {{}}; }), "accepted") << "not recorded";
    EXPECT_PRED2(says, said([](RoutingRecord& r, ReplayOptions&) { std::swap(r.layers[0], r.layers[1]); }), "ascend");
    EXPECT_PRED2(says, said([](RoutingRecord&, ReplayOptions& o) { o.record_bytes.pop_back(); }), "record sizes of 1");
    EXPECT_PRED2(says, said([](RoutingRecord&, ReplayOptions& o) { o.costs.pop_back(); }), "costs of 1");
    EXPECT_PRED2(says, said([](RoutingRecord&, ReplayOptions& o) { o.record_bytes[0] = 100; }), "4096");
    EXPECT_PRED2(says, said([](RoutingRecord&, ReplayOptions& o) { o.policy = "oldest"; }), "oldest");
    EXPECT_PRED2(says, said([](RoutingRecord&, ReplayOptions& o) { o.policy = "static"; }), "frequencies");
    EXPECT_PRED2(says, said([](RoutingRecord&, ReplayOptions& o) { o.prefetch = "dream"; }), "dream");
    EXPECT_PRED2(says, said([](RoutingRecord&, ReplayOptions& o) { o.planner = "hope"; }), "hope");
    RoutingRecord bad = good;
    bad.layers[0].chosen.pop_back();
    EXPECT_PRED2(says, testing::refusal([&] { belady_misses(bad, {2}); }), "layer 1");
}

TEST(Replay, ACacheOfLessThanTwoRecordsIsABudgetError) {
    RoutingRecord record = random_trace(2, 4, 2, 5, 2, 1);
    const auto budget = [&](const ReplayOptions& options) {
        try {
            replay(record, options);
            return std::string("accepted");
        } catch (const Error& error) {
            return error.kind() == ErrorKind::budget ? std::string(error.what()) : "another kind";
        }
    };
    ReplayOptions options = on(record, ssd({10, 1}, 100), 4);
    options.cache_bytes = 2 * kRecord - 1;
    EXPECT_NE(budget(options).find("two slots"), std::string::npos) << budget(options);
    options.cache_bytes = 2 * kRecord;
    EXPECT_EQ(budget(options), "accepted");
    options.max_slots = 1;
    EXPECT_NE(budget(options).find("two slots"), std::string::npos) << budget(options);
    options.max_slots.reset();
    options.cache_bytes.reset();  // the record says 0
    EXPECT_NE(budget(options).find("two slots"), std::string::npos) << budget(options);
    record.steps[0].cache_bytes = 2 * kRecord;
    EXPECT_NE(testing::refusal([&] { replay(record, options); }).find("two records"), std::string::npos);
}

TEST(Replay, ARecordOfNoStepsTakesNoTime) {
    RoutingRecord record = random_trace(2, 4, 2, 0, 2, 1);
    ReplayOptions options = on(record, ssd({10, 1}, 100), 4);
    options.cache_bytes.reset();
    const ReplayResult result = replay(record, options);
    EXPECT_EQ(result.time, 0);
    EXPECT_EQ(result.steps, 0);
    EXPECT_EQ(belady_misses(record, {3}), (std::vector<std::int64_t>{0}));
}

}  // namespace
}  // namespace moestro::sim
