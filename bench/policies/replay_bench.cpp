// How fast routing is replayed: tokens per second of a large model's shape, with production's cache and policies.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <string>

#include "sim/replay.h"

namespace moestro {
namespace {

constexpr int kLayers = 48, kExperts = 128, kTopK = 8, kTokens = 256;
constexpr std::size_t kRecordBytes = std::size_t{4} << 20;

// Tokens that prefer some experts, as routers do, and routers that foresee each other's choices.
const policy::RoutingRecord& record() {
    static const policy::RoutingRecord made = [] {
        std::mt19937 random(1);
        policy::RoutingRecord all;
        all.tokens.assign(kTokens, 0);
        all.accepted.assign(kTokens, 1);
        all.steps.assign(kTokens, {.rows = 1});
        std::vector<int> order(kExperts);
        for (int layer = 0; layer < kLayers; ++layer) {
            policy::RoutingRecord::Layer& one = all.layers.emplace_back();
            one.layer = layer;
            one.experts = kExperts;
            one.top_k = kTopK;
            one.kept = 2 * kTopK;
            for (int token = 0; token < kTokens; ++token) {
                std::iota(order.begin(), order.end(), 0);
                for (int i = 0; i < 2 * kTopK; ++i) {
                    const double place = std::pow(std::uniform_real_distribution<>()(random), 2.0);
                    std::swap(order[static_cast<std::size_t>(i)],
                              order[static_cast<std::size_t>(i + static_cast<int>(place * (kExperts - i)))]);
                }
                one.chosen.insert(one.chosen.end(), order.begin(), order.begin() + kTopK);
                std::sort(one.chosen.end() - kTopK, one.chosen.end());
                for (int i = 0; i < 2 * kTopK; ++i)
                    one.best.push_back({order[static_cast<std::size_t>(i)], 0.5f / static_cast<float>(i + 1)});
            }
            if (layer > 0) one.ahead.push_back(one.best);
        }
        return all;
    }();
    return made;
}

void replay(benchmark::State& state, const std::string& policy, const std::string& prefetch, bool device) {
    const policy::LaneCosts costs{
        .cpu = {2e5, 1e4}, .cpu_start = 0, .device = {3e4, 1e2}, .link = 2e5, .ssd = 2e6, .has_device = device};
    sim::ReplayOptions options{.record_bytes = std::vector<std::size_t>(kLayers, kRecordBytes),
                               .costs = std::vector<policy::LaneCosts>(kLayers, costs),
                               .layer = {1e5, 1e3},
                               .step = {},
                               .cache_bytes = kLayers * kExperts / 4 * kRecordBytes,
                               .max_slots = {}};
    options.policy = policy;
    options.prefetch = prefetch;
    options.predictor.top_k.assign(kLayers, kTopK);
    for (auto _ : state) benchmark::DoNotOptimize(sim::replay(record(), options).time);
    state.counters["tokens/s"] =
        benchmark::Counter(static_cast<double>(state.iterations()) * kTokens, benchmark::Counter::kIsRate);
}

BENCHMARK_CAPTURE(replay, lru, "lru", "none", false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(replay, score, "score", "none", false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(replay, shallow, "shallow", "none", false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(replay, lru_next_gate, "lru", "next_gate", false)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(replay, score_hybrid, "score", "none", true)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(replay, score_hybrid_impact, "score", "impact", true)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace moestro
