// Every rule of docs/numerics.md "Router" against the processor's, to the bit, and the largest of a row against a sort.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "kernels/bits.h"
#include "kernels/cuda/on_device.h"
#include "kernels/ops.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using cuda::Fault;
using testing::expect_same_bits;
using testing::FaultWord;
using testing::in_every_order;
using testing::normal_floats;
using testing::OnDevice;
using testing::scalar_compute;
using Score = RouterRule::Score;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr Score kScores[] = {Score::softmax, Score::sigmoid, Score::chosen, Score::sigmoid_of_chosen,
                             Score::sparsemixer};

// Every other row has many ties, zeros of both signs among them.
std::vector<float> some_logits(int rows, int experts, unsigned seed) {
    std::vector<float> logits = normal_floats(static_cast<std::size_t>(rows * experts), seed, 3.0f);
    for (std::size_t i = 0; i < logits.size(); ++i)
        if (i / static_cast<std::size_t>(experts) % 2 == 0) logits[i] = std::nearbyint(logits[i] / 3);
    return logits;
}

void expect_routes(const RouterRule& rule, int rows, int experts, unsigned seed) {
    SCOPED_TRACE("score " + std::to_string(static_cast<int>(rule.score)) + ", experts " + std::to_string(experts) +
                 ", top_k " + std::to_string(rule.top_k));
    const std::vector<float> logits = some_logits(rows, experts, seed);
    const auto chosen = static_cast<std::size_t>(rows * rule.top_k);
    std::vector<std::int32_t> ids(chosen);
    std::vector<float> weights(chosen);
    route(scalar_compute(), rule, logits.data(), rows, experts, ids.data(), weights.data());
    in_every_order([&] {
        const OnDevice<float> on_logits(logits), on_weights(chosen);
        const OnDevice<float> correction(
            rule.correction ? std::vector<float>(rule.correction, rule.correction + experts) : std::vector<float>());
        const OnDevice<std::int32_t> on_ids(chosen);
        const FaultWord fault;
        RouterRule there = rule;
        there.correction = correction.data();
        ASSERT_EQ(cuda::route(there, on_logits.data(), rows, experts, on_ids.data(), on_weights.data(), fault.data(),
                              nullptr),
                  0);
        EXPECT_EQ(on_ids.read(), ids);
        expect_same_bits(on_weights.read(), weights);
        EXPECT_EQ(fault.read(), Fault::none);
    });
}

TEST(CudaRouter, EveryScoreIsTheProcessors) {
    for (const Score score : kScores)
        for (const int experts : {1, 2, 7, 16, 33, 128, 1024})
            for (const int top_k : {1, 2, 6, 17, 64})
                for (const bool normalise : {false, true}) {
                    if (top_k > experts || (score == Score::sparsemixer && top_k > 6)) continue;
                    RouterRule rule{.score = score, .top_k = top_k, .normalise = normalise};
                    if (score == Score::sparsemixer) rule.jitter = 0.01f;
                    if (normalise) rule.scale = 2.5f;
                    expect_routes(rule, 4, experts, 1);
                    if (HasFatalFailure()) return;
                }
}

TEST(CudaRouter, NormalisationHasAnEpsilonAndALeastSum) {
    for (const Score score : kScores) {
        expect_routes({.score = score, .top_k = 3, .normalise = true, .norm_eps = 0.5f}, 6, 20, 2);
        expect_routes({.score = score, .top_k = 3, .normalise = true, .norm_min = 3.9f}, 6, 20, 2);
        expect_routes({.score = score, .top_k = 3, .normalise = true, .norm_eps = 1e-20f, .scale = 16}, 6, 20, 2);
    }
}

TEST(CudaRouter, GroupsAndCorrectionsAreTheProcessors) {
    const std::vector<float> correction = some_logits(3, 64, 5);
    for (const Score score : {Score::softmax, Score::sigmoid, Score::chosen, Score::sigmoid_of_chosen})
        for (const int best : {1, 2})
            for (const int groups : {1, 2, 8, 32})
                for (const int kept : {1, 2, 4, 8})
                    for (const float* corrected : {static_cast<const float*>(nullptr), correction.data()}) {
                        if (kept > groups) continue;
                        expect_routes({.score = score,
                                       .top_k = std::min(6, 64 / groups * kept),
                                       .normalise = true,
                                       .correction = corrected,
                                       .groups = groups,
                                       .kept_groups = kept,
                                       .group_best = best},
                                      4, 64, 4);
                        if (HasFatalFailure()) return;
                    }
}

TEST(CudaRouter, ALogitThatIsNotFiniteIsAFault) {
    for (const Score score : kScores)
        for (const float bad : {kInfinity, -kInfinity, kNaN})
            for (const std::size_t at : {std::size_t{0}, std::size_t{20}, std::size_t{36}}) {
                std::vector<float> logits(2 * 37, 0.5f);
                logits[37 + at] = bad;
                const OnDevice<float> on(logits), weights(4);
                const OnDevice<std::int32_t> ids(4);
                const FaultWord fault;
                ASSERT_EQ(cuda::route({.score = score, .top_k = 2}, on.data(), 2, 37, ids.data(), weights.data(),
                                      fault.data(), nullptr),
                          0);
                EXPECT_EQ(fault.read(), Fault::router);
            }
}

// What is NaN comes last; equal ones by ascending ids.
void expect_top_k(const std::vector<float>& x, int rows, int k) {
    const int n = static_cast<int>(x.size()) / rows;
    std::vector<float> values;
    std::vector<std::int32_t> ids;
    for (int row = 0; row < rows; ++row) {
        const float* const at = x.data() + row * n;
        std::vector<std::int32_t> order(static_cast<std::size_t>(n));
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
            return at[a] > at[b] || (!std::isnan(at[a]) && std::isnan(at[b]));
        });
        for (int j = 0; j < k; ++j) {
            ids.push_back(order[static_cast<std::size_t>(j)]);
            values.push_back(at[ids.back()]);
        }
    }
    in_every_order([&] {
        const OnDevice<float> on(x), on_values(values.size());
        const OnDevice<std::int32_t> on_ids(ids.size());
        ASSERT_EQ(cuda::top_k(on.data(), rows, n, k, on_values.data(), on_ids.data(), nullptr), 0);
        EXPECT_EQ(on_ids.read(), ids);
        expect_same_bits(on_values.read(), values);
    });
}

TEST(CudaTopK, IsWhatASortGives) {
    for (const auto& [n, rows] : {std::pair{1, 3}, {5, 2}, {256, 2}, {2047, 1}, {2049, 2}, {40000, 2}})
        for (const int k : {1, 2, 20, 256})
            if (k <= n) expect_top_k(normal_floats(static_cast<std::size_t>(n * rows), 9, 5.0f), rows, k);
}

TEST(CudaTopK, TiesGoToTheLowerIdAndNaNsComeLast) {
    std::vector<float> coarse = normal_floats(20000, 3, 2.0f);
    for (float& value : coarse) value = std::nearbyint(value);  // both zeros
    expect_top_k(coarse, 1, 256);
    expect_top_k(std::vector<float>(30000, -1.0f), 1, 256);
    std::vector<float> ascending(20000);
    std::iota(ascending.begin(), ascending.end(), -3.0f);
    expect_top_k(ascending, 2, 100);
    std::vector<float> few(3000, kNaN);
    few[2999] = -kInfinity;
    few[5] = kInfinity;
    few[7] = -kNaN;
    few[2500] = 0.0f;
    few[77] = -0.0f;
    expect_top_k(few, 1, 3);
    expect_top_k(few, 1, 4);
    expect_top_k(few, 1, 200);
}

}  // namespace
}  // namespace moestro::kernels
