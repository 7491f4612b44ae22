// Every rule of docs/numerics.md "Router" against brute force in binary64: sort all experts, take the first. And every
// table and number of threads against the scalar one, to the bit.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "base/error.h"
#include "kernels/bits.h"
#include "kernels/ops.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using Score = RouterRule::Score;
using testing::every_compute;
using testing::expect_same_bits;
using testing::normal_floats;
using testing::scalar_compute;

struct Routes {
    std::vector<std::int32_t> ids;
    std::vector<float> weights;
};

Routes run(Compute& compute, const RouterRule& rule, const std::vector<float>& logits, int experts) {
    const auto rows = logits.size() / static_cast<std::size_t>(experts), k = static_cast<std::size_t>(rule.top_k);
    Routes routes{std::vector<std::int32_t>(rows * k, -1), std::vector<float>(rows * k, -1.0f)};
    route(compute, rule, logits.data(), static_cast<int>(rows), experts, routes.ids.data(), routes.weights.data());
    return routes;
}

struct Choice {
    std::vector<int> ids;
    std::vector<double> weights;
};

std::vector<double> softmax(const std::vector<double>& x) {
    const double largest = *std::max_element(x.begin(), x.end());
    std::vector<double> p;
    for (const double v : x) p.push_back(std::exp(v - largest));
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& v : p) v /= sum;
    return p;
}

// Ids by descending value, ties to the lower.
std::vector<int> descending(const std::vector<double>& values) {
    std::vector<int> order(values.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        return values[static_cast<std::size_t>(a)] > values[static_cast<std::size_t>(b)];
    });
    return order;
}

std::vector<bool> experts_of_kept_groups(const RouterRule& rule, const std::vector<double>& scores) {
    const std::size_t size = scores.size() / static_cast<std::size_t>(rule.groups);
    std::vector<double> groups;
    for (std::size_t first = 0; first < scores.size(); first += size) {
        const std::vector<double> of_group(scores.begin() + static_cast<std::ptrdiff_t>(first),
                                           scores.begin() + static_cast<std::ptrdiff_t>(first + size));
        const std::vector<int> order = descending(of_group);
        groups.push_back(0);
        for (std::size_t i = 0; i < static_cast<std::size_t>(rule.group_best); ++i)
            groups.back() += of_group[static_cast<std::size_t>(order[i])];
    }
    std::vector<bool> kept(scores.size());
    const std::vector<int> order = descending(groups);
    for (std::size_t i = 0; i < static_cast<std::size_t>(rule.kept_groups); ++i)
        for (std::size_t e = 0; e < size; ++e) kept[static_cast<std::size_t>(order[i]) * size + e] = true;
    return kept;
}

// The scores that the core sees are binary32: what is tied there must be tied here.
std::vector<double> scores_of(const RouterRule& rule, const std::vector<float>& logits) {
    std::vector<double> scores(logits.begin(), logits.end());
    if (rule.score == Score::softmax) scores = softmax(scores);
    if (rule.score == Score::sigmoid)
        for (double& v : scores) v = 1 / (1 + std::exp(-v));
    return scores;
}

void weigh(const RouterRule& rule, Choice& choice) {
    if (rule.normalise) {
        const double sum = std::accumulate(choice.weights.begin(), choice.weights.end(), 0.0);
        for (double& weight : choice.weights) weight /= std::max(sum + double{rule.norm_eps}, double{rule.norm_min});
    }
    for (double& weight : choice.weights) weight *= rule.scale;
}

Choice by_brute_force(const RouterRule& rule, const std::vector<float>& logits) {
    const std::vector<double> scores = scores_of(rule, logits);
    std::vector<double> choosing(scores);
    for (std::size_t e = 0; rule.correction && e < scores.size(); ++e) choosing[e] += rule.correction[e];
    const std::vector<bool> kept = experts_of_kept_groups(rule, choosing);
    Choice choice;
    for (const int id : descending(choosing)) {
        if (!kept[static_cast<std::size_t>(id)] || choice.ids.size() == static_cast<std::size_t>(rule.top_k)) continue;
        choice.ids.push_back(id);
        choice.weights.push_back(scores[static_cast<std::size_t>(id)]);
    }
    if (rule.score == Score::chosen) choice.weights = softmax(choice.weights);
    if (rule.score == Score::sigmoid_of_chosen)
        for (double& weight : choice.weights) weight = 1 / (1 + std::exp(-weight));
    weigh(rule, choice);
    return choice;
}

Choice by_sparsemixer(const RouterRule& rule, const std::vector<float>& logits) {
    constexpr double nothing = -std::numeric_limits<double>::infinity();
    std::vector<double> open(logits.begin(), logits.end());
    Choice choice;
    for (int round = 0; round < rule.top_k; ++round) {
        const int best = descending(open).front();
        const double top = open[static_cast<std::size_t>(best)];
        std::vector<double> near(open);
        for (double& l : near)
            if (l != nothing && (top - l) / std::max(std::fabs(l), top) > 2 * rule.jitter) l = nothing;
        choice.ids.push_back(best);
        choice.weights.push_back(softmax(near)[static_cast<std::size_t>(best)]);
        open[static_cast<std::size_t>(best)] = nothing;
    }
    weigh(rule, choice);
    return choice;
}

// Logits on a coarse grid, so that neither a tie nor a threshold depends on a rounding; every third row has many ties.
std::vector<float> coarse_logits(int rows, int experts, unsigned seed) {
    std::vector<float> logits = normal_floats(static_cast<std::size_t>(rows * experts), seed, 3.0f);
    for (std::size_t i = 0; i < logits.size(); ++i) {
        const bool tied = i / static_cast<std::size_t>(experts) % 3 == 0;
        logits[i] = tied ? std::nearbyint(logits[i]) : std::nearbyint(logits[i] * 64) / 64;
    }
    return logits;
}

void expect_routes(const RouterRule& rule, const std::vector<float>& logits, int experts) {
    const Routes routes = run(scalar_compute(), rule, logits, experts);
    const auto k = static_cast<std::size_t>(rule.top_k);
    for (std::size_t row = 0; row * static_cast<std::size_t>(experts) < logits.size(); ++row) {
        const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row) * experts;
        const std::vector<float> one(begin, begin + experts);
        const Choice choice = rule.score == Score::sparsemixer ? by_sparsemixer(rule, one) : by_brute_force(rule, one);
        for (std::size_t j = 0; j < k; ++j) {
            ASSERT_EQ(routes.ids[row * k + j], choice.ids[j]) << "row " << row << ", place " << j;
            ASSERT_NEAR(routes.weights[row * k + j], choice.weights[j], std::fabs(choice.weights[j]) * 2e-6 + 1e-40)
                << "row " << row << ", place " << j;
        }
    }
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        const testing::FlushSubnormals flush;
        const Routes other = run(*compute, rule, logits, experts);
        ASSERT_EQ(other.ids, routes.ids);
        expect_same_bits(other.weights, routes.weights);
    }
}

TEST(RouterRules, EveryScoreChoosesAndWeighsAsBruteForceDoes) {
    for (const Score score : {Score::softmax, Score::sigmoid, Score::chosen, Score::sigmoid_of_chosen})
        for (const int experts : {1, 2, 7, 16, 33, 128, 2000})
            for (const int top_k : {1, 2, 6, 17})
                for (const bool normalise : {false, true}) {
                    if (top_k > experts) continue;
                    SCOPED_TRACE("score " + std::to_string(static_cast<int>(score)) + ", experts " +
                                 std::to_string(experts) + ", top_k " + std::to_string(top_k));
                    RouterRule rule{.score = score, .top_k = top_k, .normalise = normalise};
                    if (normalise) rule.scale = 2.5f;
                    expect_routes(rule, coarse_logits(7, experts, 1), experts);
                    if (HasFatalFailure()) return;
                }
}

TEST(RouterRules, NormalisationHasAnEpsilonAndALeastSum) {
    for (const Score score : {Score::softmax, Score::sigmoid}) {
        const std::vector<float> logits = coarse_logits(6, 20, 2);
        expect_routes({.score = score, .top_k = 3, .normalise = true, .norm_eps = 0.5f}, logits, 20);
        expect_routes({.score = score, .top_k = 3, .normalise = true, .norm_min = 0.9f}, logits, 20);
        expect_routes({.score = score, .top_k = 3, .normalise = true, .norm_eps = 1e-20f, .scale = 16}, logits, 20);
    }
    // All scores vanish: without an epsilon there would be nothing to divide by.
    const std::vector<float> low(8, -120.0f);
    const Routes routes =
        run(scalar_compute(), {.score = Score::sigmoid, .top_k = 2, .normalise = true, .norm_eps = 1e-20f}, low, 8);
    EXPECT_EQ(routes.ids, (std::vector<std::int32_t>{0, 1}));
    EXPECT_EQ(routes.weights, (std::vector<float>{0, 0}));
}

TEST(RouterRules, CorrectionsChooseButDoNotWeigh) {
    // On a grid as well. Scores of softmax and sigmoid are not: their sums are compared where none is near another.
    for (const Score score : {Score::chosen, Score::sigmoid_of_chosen})
        for (const int top_k : {1, 4}) {
            std::vector<float> correction = coarse_logits(1, 24, 8);
            expect_routes({.score = score, .top_k = top_k, .normalise = true, .correction = correction.data()},
                          coarse_logits(9, 24, 3), 24);
        }
    const std::vector<float> spread = {0.0f, 3.0f, 1.0f, 2.0f, -1.0f, -2.0f};
    for (const Score score : {Score::softmax, Score::sigmoid})
        for (const bool normalise : {false, true}) {
            std::vector<float> correction = {0.7f, -3, 0.1f, 0.0f, -0.2f, 5.0f};
            expect_routes({.score = score, .top_k = 3, .normalise = normalise, .correction = correction.data()}, spread,
                          6);
        }
    // Equal sums tie although their parts differ.
    const std::vector<float> tied = {1.5f, 2.0f, 0.5f}, correction = {1.0f, 0.5f, 2.0f};
    const Routes routes =
        run(scalar_compute(), {.score = Score::chosen, .top_k = 3, .correction = correction.data()}, tied, 3);
    EXPECT_EQ(routes.ids, (std::vector<std::int32_t>{0, 1, 2}));
}

TEST(RouterRules, OnlyKeptGroupsTakePart) {
    for (const Score score : {Score::softmax, Score::chosen})
        for (const int best : {1, 2})
            for (const int kept : {1, 2, 4, 8})
                for (const bool corrected : {false, true}) {
                    // A grid in which sums of two are exact; softmax scores are compared without corrections alone.
                    if (score == Score::softmax && (corrected || best == 2)) continue;
                    SCOPED_TRACE("best " + std::to_string(best) + ", kept " + std::to_string(kept));
                    const std::vector<float> correction = coarse_logits(1, 64, 5);
                    const RouterRule rule{.score = score,
                                          .top_k = 6,
                                          .normalise = true,
                                          .correction = corrected ? correction.data() : nullptr,
                                          .groups = 8,
                                          .kept_groups = kept,
                                          .group_best = best};
                    expect_routes(rule, coarse_logits(12, 64, 4), 64);
                    if (HasFatalFailure()) return;
                }
    // Negative scores and whole groups that tie: the lower group stays, and nothing of the others is taken.
    const RouterRule rule{.score = Score::chosen, .top_k = 2, .groups = 3, .kept_groups = 1, .group_best = 2};
    const Routes routes = run(scalar_compute(), rule, {-9, -8, -5, -12, -12, -5}, 6);
    EXPECT_EQ(routes.ids, (std::vector<std::int32_t>{1, 0}));
}

TEST(RouterRules, SparsemixerWeighsEveryRoundBesidesWhatIsNear) {
    for (const float jitter : {0.01f, 0.1f, 0.0f})
        for (const int experts : {2, 5, 16, 40})
            for (const bool normalise : {false, true}) {
                SCOPED_TRACE("experts " + std::to_string(experts));
                expect_routes({.score = Score::sparsemixer, .top_k = 2, .normalise = normalise, .jitter = jitter},
                              coarse_logits(12, experts, 6), experts);
                if (HasFatalFailure()) return;
            }
    // Near and far, all equal, all zero, all negative.
    const std::vector<float> logits = {4.0f, 3.99f, 3.0f, -4.0f, 1, 1, 1, 1, 0, 0, 0, 0, -1, -2, -1.005f, -3};
    const Routes routes = run(scalar_compute(), {.score = Score::sparsemixer, .top_k = 2, .jitter = 0.01f}, logits, 4);
    EXPECT_EQ(routes.ids, (std::vector<std::int32_t>{0, 1, 0, 1, 0, 1, 0, 2}));
    const std::vector<float> expected = {1 / (1 + std::exp(-0.01f)),  1, 0.25f, 1 / 3.0f, 0.25f, 1 / 3.0f,
                                         1 / (1 + std::exp(-0.005f)), 1};
    for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(routes.weights[i], expected[i], 1e-6) << i;
}

TEST(RouterRules, NonFiniteLogitsAreRefusedByEveryRule) {
    constexpr float infinity = std::numeric_limits<float>::infinity();
    for (const Score score :
         {Score::softmax, Score::sigmoid, Score::chosen, Score::sigmoid_of_chosen, Score::sparsemixer})
        for (const float bad : {infinity, -infinity, std::numeric_limits<float>::quiet_NaN()})
            for (const std::size_t at : {std::size_t{0}, std::size_t{20}, std::size_t{36}}) {
                std::vector<float> logits(2 * 37, 0.5f);
                logits[37 + at] = bad;
                for (const auto& [name, compute] : every_compute()) {
                    SCOPED_TRACE(name);
                    try {
                        run(*compute, {.score = score, .top_k = 2}, logits, 37);
                        ADD_FAILURE() << "expected an error";
                    } catch (const Error& error) {
                        EXPECT_EQ(error.kind(), ErrorKind::numeric);
                        EXPECT_NE(std::string(error.what()).find("router logit is not finite (row 1"),
                                  std::string::npos)
                            << error.what();
                    }
                }
            }
}

TEST(RouterRules, ScratchIsKeptAndIsWhatItSaid) {
    const std::vector<float> logits = normal_floats(50 * 64, 1);
    std::vector<std::int32_t> ids(50 * 4);
    std::vector<float> weights(ids.size());
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        RouterScratch scratch;
        const RouterRule rule{.top_k = 4, .groups = 8, .kept_groups = 4};
        route(*compute, rule, logits.data(), 50, 64, ids.data(), weights.data(), scratch);
        const float* kept = scratch.scores.data();
        EXPECT_EQ(scratch.scores.capacity() * sizeof(float), RouterScratch::bytes(64, compute->pool().threads()));
        const std::vector<float> first(weights);
        route(*compute, rule, logits.data(), 50, 64, ids.data(), weights.data(), scratch);
        EXPECT_EQ(scratch.scores.data(), kept);
        expect_same_bits(weights, first);
    }
}

}  // namespace
}  // namespace moestro::kernels
