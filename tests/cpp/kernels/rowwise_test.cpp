// Norms, routers, rotations and the exp and silu inside them.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "kernels/bits.h"
#include "kernels/ops.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using testing::every_compute;
using testing::expect_same_bits;
using testing::normal_floats;
using testing::scalar_compute;

constexpr int kSizes[] = {1, 3, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 255, 256, 257, 511, 1024, 5000};

// The striped sum of docs/numerics.md over any step.
template <class Step>
float striped(int n, const Step& step) {
    float lanes[16] = {};
    for (int i = 0; i < n; ++i) lanes[i % 16] = step(i, lanes[i % 16]);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

TEST(RmsNorm, FollowsTheBookOnEveryTable) {
    for (int n : kSizes) {
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(3 * n), 1),
                                 w = normal_floats(static_cast<std::size_t>(n), 2);
        std::vector<float> expected;
        std::vector<double> reference;
        for (int row = 0; row < 3; ++row) {
            const float* v = x.data() + row * n;
            const float ss = striped(n, [&](int i, float lane) { return std::fma(v[i], v[i], lane); });
            const float r = 1.0f / std::sqrt(ss / static_cast<float>(n) + 1e-6f);
            double exact = 0;
            for (int i = 0; i < n; ++i) exact += static_cast<double>(v[i]) * v[i];
            for (int i = 0; i < n; ++i) {
                expected.push_back((v[i] * r) * w[static_cast<std::size_t>(i)]);
                reference.push_back(v[i] / std::sqrt(exact / n + 1e-6) * w[static_cast<std::size_t>(i)]);
            }
        }
        EXPECT_LT(testing::nmse(expected, reference), 1e-12);
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name + ", n " + std::to_string(n));
            const testing::FlushSubnormals flush;
            std::vector<float> y(x.size());
            rms_norm(*compute, x.data(), w.data(), 1e-6f, 3, n, y.data());
            expect_same_bits(y, expected);
            y = x;
            rms_norm(*compute, y.data(), w.data(), 1e-6f, 3, n, y.data());  // in place
            expect_same_bits(y, expected);
        }
    }
}

TEST(RmsNorm, NonFiniteSumOfSquaresIsRefused) {
    const std::vector<float> w(20, 1.0f);
    for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN(), 1e30f}) {
        std::vector<float> x(40, 1.0f), y(40);
        x[37] = bad;
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name);
            try {
                rms_norm(*compute, x.data(), w.data(), 1e-6f, 2, 20, y.data());
                FAIL() << "expected an error";
            } catch (const Error& error) {
                EXPECT_EQ(error.kind(), ErrorKind::numeric);
                EXPECT_NE(std::string(error.what()).find("rms_norm"), std::string::npos) << error.what();
            }
        }
    }
}

TEST(Add, IsPlainAddition) {
    for (int n : kSizes) {
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(n), 1, 1e-38f),
                                 y = normal_floats(static_cast<std::size_t>(n), 2, 1e-38f);
        std::vector<float> expected(x);
        for (std::size_t i = 0; i < x.size(); ++i) expected[i] = x[i] + y[i];
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name);
            const testing::FlushSubnormals flush;
            std::vector<float> sum(x);
            add(*compute, sum.data(), y.data(), n);
            expect_same_bits(sum, expected);
        }
    }
}

TEST(Silu, IsAccurateEverywhereAndTheSameOnEveryTable) {
    std::vector<float> gate = {0.0f,   -0.0f,  1e-45f,  -1e-45f, 88.7f,   -88.7f, 89.0f,
                               -89.0f, 103.9f, -103.9f, 500.0f,  -500.0f, 3e38f,  -3e38f};
    for (float v : normal_floats(3001, 1, 20.0f)) gate.push_back(v);
    const std::vector<float> one(gate.size(), 1.0f);
    std::vector<float> expected(gate.size());
    scalar_table().gated[0](gate.data(), one.data(), expected.data(), static_cast<int>(gate.size()));
    for (std::size_t i = 0; i < gate.size(); ++i) {
        const double v = gate[i], exact = v / (1 + std::exp(-v));
        // Where exp(-v) overflows the answer is zero, and where it nearly does the quotient is tiny.
        EXPECT_NEAR(expected[i], exact, std::fabs(exact) * 4e-7 + (v < -88 ? 1e-36 : 1e-45)) << v;
    }
    for (const auto& table : testing::runnable_tables()) {
        SCOPED_TRACE(table.name);
        for (int n : {1, 15, 16, 17, static_cast<int>(gate.size())}) {
            std::vector<float> h(static_cast<std::size_t>(n));
            table.choice.table->gated[0](gate.data(), one.data(), h.data(), n);
            expect_same_bits(h, std::span(expected).first(h.size()));
        }
    }
}

TEST(Softmax, SubnormalProbabilitiesAndMinusInfinityAreExact) {
    // Differences to the maximum sweep exp's whole range, into subnormals and to zero.
    std::vector<float> logits;
    for (int i = 0; i < 2200; ++i) logits.push_back(-0.05f * static_cast<float>(i));
    std::vector<float> expected(logits.size());
    ASSERT_TRUE(scalar_table().softmax(logits.data(), static_cast<int>(logits.size()), expected.data()));
    double sum = 0;
    for (float v : logits) sum += std::exp(static_cast<double>(v));
    int subnormal = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
        const double exact = std::exp(static_cast<double>(logits[i])) / sum;
        EXPECT_NEAR(expected[i], exact, exact * 4e-7 + (logits[i] < -80 ? 3e-45 : 0)) << logits[i];
        subnormal += std::fpclassify(expected[i]) == FP_SUBNORMAL;
    }
    EXPECT_GT(subnormal, 50);
    for (const auto& table : testing::runnable_tables()) {
        SCOPED_TRACE(table.name);
        std::vector<float> p(logits.size());
        ASSERT_TRUE(table.choice.table->softmax(logits.data(), static_cast<int>(logits.size()), p.data()));
        expect_same_bits(p, expected);
    }
}

TEST(Router, PicksTheLargestWithTiesToTheLowestId) {
    for (int experts : {1, 2, 7, 16, 17, 64, 128, 257, 10000}) {
        for (int top_k : {1, 2, 8}) {
            if (top_k > experts) continue;
            std::vector<float> logits = normal_floats(static_cast<std::size_t>(5 * experts), 1);
            for (int i = 0; i < experts; ++i)
                logits[static_cast<std::size_t>(i)] = static_cast<float>(i % 3);  // row 0: ties
            for (bool normalise : {false, true}) {
                std::vector<std::int32_t> ids(static_cast<std::size_t>(5 * top_k));
                std::vector<float> weights(ids.size());
                route(scalar_compute(), {.top_k = top_k, .normalise = normalise}, logits.data(), 5, experts, ids.data(),
                      weights.data());
                for (int row = 0; row < 5; ++row) {
                    std::vector<int> order(static_cast<std::size_t>(experts));
                    std::iota(order.begin(), order.end(), 0);
                    const float* l = logits.data() + row * experts;
                    std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return l[a] > l[b]; });
                    double all = 0, kept = 0;
                    for (int e = 0; e < experts; ++e) all += std::exp(static_cast<double>(l[e]));
                    for (int j = 0; j < top_k; ++j)
                        kept += std::exp(static_cast<double>(l[order[static_cast<std::size_t>(j)]]));
                    for (int j = 0; j < top_k; ++j) {
                        const auto at = static_cast<std::size_t>(row * top_k + j);
                        EXPECT_EQ(ids[at], order[static_cast<std::size_t>(j)]);
                        const double exact = std::exp(static_cast<double>(l[ids[at]])) / (normalise ? kept : all);
                        EXPECT_NEAR(weights[at], exact, exact * 1e-6);
                    }
                }
                for (const auto& [name, compute] : every_compute()) {
                    SCOPED_TRACE(name + ", experts " + std::to_string(experts));
                    std::vector<std::int32_t> other_ids(ids.size());
                    std::vector<float> other(ids.size());
                    const testing::FlushSubnormals flush;
                    route(*compute, {.top_k = top_k, .normalise = normalise}, logits.data(), 5, experts,
                          other_ids.data(), other.data());
                    EXPECT_EQ(other_ids, ids);
                    expect_same_bits(other, weights);
                }
            }
        }
    }
}

TEST(Router, NonFiniteLogitIsRefused) {
    for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                      std::numeric_limits<float>::quiet_NaN()}) {
        for (std::size_t at : {std::size_t{0}, std::size_t{20}, std::size_t{36}}) {
            std::vector<float> logits(37, 0.5f);
            logits[at] = bad;
            std::int32_t id = 0;
            float weight = 0;
            for (const auto& [name, compute] : every_compute()) {
                SCOPED_TRACE(name);
                EXPECT_THROW(route(*compute, {.top_k = 1, .normalise = true}, logits.data(), 1, 37, &id, &weight),
                             Error);
            }
        }
    }
}

TEST(RopeTable, CosAndSinAreCorrectlyRounded) {
    // 80-bit cosines as the oracle; positions up to 2^20, frequencies of a long-context model.
    std::vector<float> frequencies;
    for (int i = 0; i < 64; ++i) frequencies.push_back(static_cast<float>(std::pow(1e6, -i / 64.0)));
    frequencies.push_back(1.0f);
    const int half = static_cast<int>(frequencies.size());
    std::vector<std::int64_t> positions = {0, 1, 2, 3, 355, 710, 52174, 1 << 20};
    for (std::int64_t i = 1; i < 400; ++i) positions.push_back(i * 2617 % (1 << 20));
    const auto rows = positions.size();
    std::vector<float> cos(rows * frequencies.size()), sin(cos.size());
    rope_table(positions.data(), frequencies.data(), false, 1.0f, static_cast<int>(rows), half, cos.data(), sin.data());
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t i = 0; i < frequencies.size(); ++i) {
            const float angle = static_cast<float>(positions[row]) * frequencies[i];
            ASSERT_EQ(cos[row * frequencies.size() + i], static_cast<float>(std::cos(static_cast<long double>(angle))))
                << angle;
            ASSERT_EQ(sin[row * frequencies.size() + i], static_cast<float>(std::sin(static_cast<long double>(angle))))
                << angle;
        }
}

TEST(RopeTable, RoundsOnceWhereDoublePrecisionFallsBetweenTwoFloats) {
    const std::int64_t position = 1;
    const float angle = 0x1.33333p+13f;  // its sine rounded to binary64 is a tie of binary32
    float cos = 0, sin = 0;
    rope_table(&position, &angle, false, 1.0f, 1, 1, &cos, &sin);
    EXPECT_EQ(sin, -0x1.63f4bap-2f);
}

TEST(RopeTable, PerRowFrequenciesAndFactor) {
    const std::int64_t positions[] = {3, 5};
    const float frequencies[] = {0.5f, 0.25f, 0.125f, 1.0f};
    float cos[4], sin[4];
    const testing::FlushSubnormals flush;
    rope_table(positions, frequencies, true, 1.25f, 2, 2, cos, sin);
    const float angles[] = {1.5f, 0.75f, 0.625f, 5.0f};
    for (int i = 0; i < 4; ++i) {
        EXPECT_EQ(cos[i], static_cast<float>(std::cos(static_cast<long double>(angles[i]))) * 1.25f);
        EXPECT_EQ(sin[i], static_cast<float>(std::sin(static_cast<long double>(angles[i]))) * 1.25f);
    }
}

TEST(RopeTable, AnglesBeyondItsReductionAreRefused) {
    const std::int64_t position = (1 << 20) + 1;
    const float frequency = 1.0f;
    float cos = 0, sin = 0;
    EXPECT_THROW(rope_table(&position, &frequency, false, 1.0f, 1, 1, &cos, &sin), Error);
}

TEST(Rope, RotatesHalvesOnEveryTable) {
    for (int half : {1, 3, 8, 16, 17, 32, 40, 64, 65}) {
        const int rows = 3, heads = 2;
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * heads * 2 * half), 1);
        const std::vector<float> cos = normal_floats(static_cast<std::size_t>(rows * half), 2),
                                 sin = normal_floats(static_cast<std::size_t>(rows * half), 3);
        std::vector<float> expected(x);
        for (int row = 0; row < rows; ++row)
            for (int head = 0; head < heads; ++head)
                for (int i = 0; i < half; ++i) {
                    float* q = expected.data() + (row * heads + head) * 2 * half;
                    const float a = q[i], b = q[i + half], c = cos[static_cast<std::size_t>(row * half + i)],
                                s = sin[static_cast<std::size_t>(row * half + i)];
                    q[i] = std::fma(a, c, -(b * s));
                    q[i + half] = std::fma(b, c, a * s);
                }
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name + ", half " + std::to_string(half));
            std::vector<float> y(x);
            rope(*compute, {.x = y.data(), .rows = rows, .heads = heads, .head_dim = 2 * half, .half = half},
                 cos.data(), sin.data());
            expect_same_bits(y, expected);
        }
    }
}

TEST(Rope, RotatesNeighboursOnEveryTable) {
    for (int half : {1, 3, 8, 16, 17, 32, 40, 65}) {
        const int rows = 3, heads = 2;
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * heads * 2 * half), 1);
        const std::vector<float> cos = normal_floats(static_cast<std::size_t>(rows * half), 2),
                                 sin = normal_floats(static_cast<std::size_t>(rows * half), 3);
        std::vector<float> expected(x);
        for (int row = 0; row < rows; ++row)
            for (int head = 0; head < heads; ++head)
                for (int i = 0; i < half; ++i) {
                    float* q = expected.data() + (row * heads + head) * 2 * half + 2 * i;
                    const float a = q[0], b = q[1], c = cos[static_cast<std::size_t>(row * half + i)],
                                s = sin[static_cast<std::size_t>(row * half + i)];
                    q[0] = std::fma(a, c, -(b * s));
                    q[1] = std::fma(b, c, a * s);
                }
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name + ", half " + std::to_string(half));
            const testing::FlushSubnormals flush;
            std::vector<float> y(x);
            rope(*compute,
                 {.x = y.data(),
                  .rows = rows,
                  .heads = heads,
                  .head_dim = 2 * half,
                  .half = half,
                  .pairs = RopePairs::neighbours},
                 cos.data(), sin.data());
            expect_same_bits(y, expected);
        }
    }
}

// What is turned of a head is what a head of that size by itself would be turned to; nothing else is touched.
TEST(Rope, TurnsSomeOfEveryHead) {
    const int rows = 130, heads = 3, dim = 50;
    const std::vector<float> x = normal_floats(rows * heads * dim, 1);
    for (const RopePairs pairs : {RopePairs::halves, RopePairs::neighbours})
        for (const auto& [first, half] : {std::pair{0, 7}, {0, 16}, {6, 22}, {33, 8}, {48, 1}, {0, 25}}) {
            const std::vector<float> cos = normal_floats(static_cast<std::size_t>(rows * half), 2),
                                     sin = normal_floats(static_cast<std::size_t>(rows * half), 3);
            std::vector<float> expected(x);
            for (int head = 0; head < rows * heads; ++head) {
                float* part = expected.data() + head * dim + first;
                const std::ptrdiff_t row = head / heads * half;
                scalar_table().rotate[static_cast<std::size_t>(pairs)](part, cos.data() + row, sin.data() + row, half);
            }
            for (const auto& [name, compute] : every_compute()) {
                SCOPED_TRACE(name + ", first " + std::to_string(first) + ", half " + std::to_string(half));
                std::vector<float> y(x);
                rope(*compute,
                     {.x = y.data(),
                      .rows = rows,
                      .heads = heads,
                      .head_dim = dim,
                      .first = first,
                      .half = half,
                      .pairs = pairs},
                     cos.data(), sin.data());
                expect_same_bits(y, expected);
            }
        }
}

}  // namespace
}  // namespace moestro::kernels
