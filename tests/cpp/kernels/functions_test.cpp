// Layer norm and what is computed element by element: gates, sigmoid, softcap, clamp, products.
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "base/error.h"
#include "kernels/bits.h"
#include "kernels/ops.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using testing::every_compute;
using testing::expect_same_bits;
using testing::normal_floats;

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

// Zeros, subnormals, the ends of every branch, large ones; then random ones.
std::vector<float> arguments() {
    std::vector<float> x = {0.0f,  -0.0f,  1e-45f,   -1e-45f, 1e-39f, 0.624999f, 0.625f, -0.625f, 0.625001f, 6.999999f,
                            7.0f,  -7.0f,  7.00001f, 9.0f,    -9.0f,  43.9f,     -43.9f, 44.1f,   -44.1f,    52.1f,
                            88.7f, -88.7f, 89.0f,    -89.0f,  103.9f, -103.9f,   500.0f, -500.0f, 3e38f,     -3e38f};
    for (const float deviation : {0.3f, 4.0f, 30.0f})
        for (const float v : normal_floats(1001, static_cast<unsigned>(deviation) + 1, deviation)) x.push_back(v);
    return x;
}

// `call(table, n, y)` fills n floats: every table must give the scalar one's bits, whatever the length.
using TableCall = std::function<void(const Table&, int, float*)>;
std::vector<float> same_on_every_table(int count, const TableCall& call) {
    std::vector<float> expected(static_cast<std::size_t>(count));
    call(scalar_table(), count, expected.data());
    for (const auto& table : testing::runnable_tables()) {
        SCOPED_TRACE(table.name);
        for (int n : {1, 3, 15, 16, 17, 31, 33, count}) {
            std::vector<float> y(static_cast<std::size_t>(n) + 1, -7.0f);
            call(*table.choice.table, n, y.data());
            expect_same_bits(std::span(y).first(static_cast<std::size_t>(n)),
                             std::span(expected).first(static_cast<std::size_t>(n)));
            EXPECT_EQ(y.back(), -7.0f) << "written beyond " << n;
        }
    }
    return expected;
}

// `near` of them against `exact(x)` within `tolerance(x, exact)`; then what is not finite, on every table alone.
void expect_function(const std::function<void(const Table&, const float*, int, float*)>& function,
                     const std::function<double(double)>& exact,
                     const std::function<double(double, double)>& tolerance) {
    std::vector<float> x = arguments();
    const auto run = [&](const Table& table, int n, float* y) { function(table, x.data(), n, y); };
    const std::vector<float> y = same_on_every_table(static_cast<int>(x.size()), run);
    for (std::size_t i = 0; i < x.size(); ++i) {
        const double right = exact(x[i]);
        EXPECT_NEAR(y[i], right, tolerance(x[i], right)) << x[i];
    }
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::array{kInfinity, -kInfinity, kNan, 1.0f, -0.0f}[i % 5];
    same_on_every_table(static_cast<int>(x.size()), run);
}

TEST(Functions, SigmoidIsAccurateEverywhereAndTheSameOnEveryTable) {
    expect_function([](const Table& table, const float* x, int n, float* y) { table.sigmoid(x, n, y); },
                    [](double v) { return 1 / (1 + std::exp(-v)); },
                    [](double v, double right) { return right * 4e-7 + (v < -88 ? 1e-38 : 0); });
}

TEST(Functions, SoftcapIsAccurateEverywhereAndTheSameOnEveryTable) {
    for (const float cap : {1.0f, 30.0f, 50.0f, 0.3f})
        expect_function(
            [&](const Table& table, const float* x, int n, float* y) {
                std::copy_n(x, n, y);
                table.softcap(y, cap, n);
            },
            [&](double v) { return cap * std::tanh(v / cap); },
            [&](double, double right) { return std::fabs(right) * 4e-7 + 2e-45 * (1 + cap); });
}

TEST(Functions, ClampIsExactOnEveryTable) {
    const std::vector<float> x = arguments();
    for (const float bound : {7.0f, 0.625f, 1e-45f}) {
        const auto clamp = [&](const Table& table, int n, float* y) {
            std::copy_n(x.data(), n, y);
            table.clamp(y, bound, n);
        };
        const std::vector<float> y = same_on_every_table(static_cast<int>(x.size()), clamp);
        for (std::size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], std::fmax(-bound, std::fmin(bound, x[i])));
    }
}

TEST(Functions, SigmoidMulIsAProductWithTheSigmoid) {
    const std::vector<float> gate = arguments(), factor = normal_floats(gate.size(), 9);
    const int n = static_cast<int>(gate.size());
    std::vector<float> expected(gate.size());
    scalar_table().sigmoid(gate.data(), n, expected.data());
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] *= factor[i];
    expect_same_bits(same_on_every_table(n,
                                         [&](const Table& table, int count, float* y) {
                                             std::copy_n(factor.data(), count, y);
                                             table.sigmoid_mul(y, gate.data(), count);
                                         }),
                     expected);
}

TEST(Gates, AreAccurateEverywhereAndTheSameOnEveryTable) {
    const struct {
        GateKind kind;
        std::function<double(double)> exact;     // of the gate alone, with up = 1
        std::function<double(double)> exponent;  // its rounding is as many relative errors of the result
        double of_one;                           // what up = 1 counts as
    } gates[] = {{GateKind::silu, [](double g) { return g / (1 + std::exp(-g)); }, [](double g) { return g; }, 1},
                 {GateKind::gelu_tanh,
                  [](double g) {
                      const double c = std::sqrt(2 / std::acos(-1.0));
                      return g / (1 + std::exp(-2 * c * (g + 0.044715 * g * g * g)));  // g / 2 (1 + tanh(c ...))
                  },
                  [](double g) { return std::fmin(200, std::fabs(1.6 * g + 0.0714 * g * g * g)); }, 1},
                 {GateKind::clamped_swiglu,
                  [](double g) {
                      const double low = std::fmin(g, 7);
                      return 2 * low / (1 + std::exp(-1.702 * low));
                  },
                  [](double g) { return 1.702 * g; }, 2}};
    for (const auto& gate : gates) {
        SCOPED_TRACE(static_cast<int>(gate.kind));
        const std::vector<float> one(arguments().size(), 1.0f);
        expect_function(
            [&](const Table& table, const float* x, int n, float* y) {
                table.gated[static_cast<std::size_t>(gate.kind)](x, one.data(), y, n);
            },
            gate.exact,
            // Where the exponential overflows the answer is zero, and where it nearly does the quotient is tiny.
            [&](double g, double right) {
                const double relative = 4e-7 + 2e-7 * std::fmin(200, std::fabs(gate.exponent(g)));
                return std::fabs(right) * relative + (g < -5 ? 2e-36 : 2e-45);
            });
    }
}

TEST(Gates, MultiplyByUpAndMayOverwriteEither) {
    const std::vector<float> gate = arguments(), one(gate.size(), 1.0f);
    std::vector<float> up = normal_floats(gate.size(), 5, 6.0f);
    up[3] = -0.0f;
    up[4] = -1.0f;
    up[5] = -7.5f;
    const int n = static_cast<int>(gate.size());
    for (const GateKind kind : {GateKind::silu, GateKind::gelu_tanh, GateKind::clamped_swiglu}) {
        const auto at = static_cast<std::size_t>(kind);
        std::vector<float> alone(gate.size()), expected(gate.size());
        scalar_table().gated[at](gate.data(), one.data(), alone.data(), n);
        for (std::size_t i = 0; i < gate.size(); ++i) {
            if (kind == GateKind::clamped_swiglu)  // halving what up = 1 doubled is exact but for subnormals
                expected[i] = (std::fmax(-7.0f, std::fmin(7.0f, up[i])) + 1.0f) * (alone[i] / 2);
            else
                expected[i] = alone[i] * up[i];
            if (std::fabs(alone[i]) < 1e-37f) scalar_table().gated[at](&gate[i], &up[i], &expected[i], 1);
        }
        expect_same_bits(same_on_every_table(n, [&](const Table& table, int count,
                                                    float* y) { table.gated[at](gate.data(), up.data(), y, count); }),
                         expected);
        for (const auto& table : testing::runnable_tables()) {
            SCOPED_TRACE(table.name);
            std::vector<float> over_gate(gate), over_up(up);
            table.choice.table->gated[at](over_gate.data(), up.data(), over_gate.data(), n);
            table.choice.table->gated[at](gate.data(), over_up.data(), over_up.data(), n);
            expect_same_bits(over_gate, expected);
            expect_same_bits(over_up, expected);
        }
    }
}

// The striped sum of docs/numerics.md.
template <class Step>
float striped(int n, const Step& step) {
    float lanes[16] = {};
    for (int i = 0; i < n; ++i) lanes[i % 16] = step(i, lanes[i % 16]);
    for (int half = 8; half; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}

TEST(LayerNorm, FollowsTheBookOnEveryTable) {
    constexpr int rows = 3;
    const auto computes = every_compute();
    for (const int n : {1, 3, 15, 16, 17, 33, 64, 65, 255, 257, 5000})
        for (const bool with_bias : {true, false}) {
            const auto width = static_cast<std::size_t>(n);
            std::vector<float> x = normal_floats(rows * width, 1);
            for (float& v : x) v += 3;
            const std::vector<float> w = normal_floats(width, 2), bias = normal_floats(width, 3);
            std::vector<float> expected;
            std::vector<double> reference;
            for (std::size_t row = 0; row < rows; ++row) {
                const float* v = x.data() + row * width;
                const float mean = striped(n, [&](int i, float lane) { return lane + v[i]; }) / static_cast<float>(n);
                const auto squared = [&](int i, float lane) { return std::fma(v[i] - mean, v[i] - mean, lane); };
                const float r = 1.0f / std::sqrt(striped(n, squared) / static_cast<float>(n) + 1e-5f);
                double exact_mean = 0, variance = 0;
                for (std::size_t i = 0; i < width; ++i) exact_mean += static_cast<double>(v[i]) / n;
                for (std::size_t i = 0; i < width; ++i) variance += std::pow(v[i] - exact_mean, 2) / n;
                for (std::size_t i = 0; i < width; ++i) {
                    const float y = ((v[i] - mean) * r) * w[i];
                    expected.push_back(with_bias ? y + bias[i] : y);
                    reference.push_back((v[i] - exact_mean) / std::sqrt(variance + 1e-5) * w[i] +
                                        (with_bias ? bias[i] : 0.0f));
                }
            }
            EXPECT_LT(testing::nmse(expected, reference), 1e-11);
            for (const auto& [name, compute] : computes) {
                SCOPED_TRACE(name + ", n " + std::to_string(n));
                const testing::FlushSubnormals flush;
                std::vector<float> y(x.size()), in_place(x);
                for (float* at : {y.data(), in_place.data()})
                    layer_norm(*compute, at == y.data() ? x.data() : at, w.data(), with_bias ? bias.data() : nullptr,
                               1e-5f, rows, n, at);
                expect_same_bits(y, expected);
                expect_same_bits(in_place, expected);
            }
        }
}

TEST(LayerNorm, SubnormalsAndNonFiniteVariances) {
    const std::vector<float> w(20, 1.0f);
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        std::vector<float> x(40, 2e-45f), y(40);
        x[3] = 1e-44f;
        {
            const testing::FlushSubnormals flush;
            layer_norm(*compute, x.data(), w.data(), w.data(), 1e-5f, 2, 20, y.data());
        }
        EXPECT_EQ(y[3], 1.0f);
        for (const float bad : {kInfinity, kNan, 1e30f}) {
            x[37] = bad;
            try {
                layer_norm(*compute, x.data(), w.data(), nullptr, 1e-5f, 2, 20, y.data());
                ADD_FAILURE() << "expected an error";
            } catch (const Error& error) {
                EXPECT_EQ(error.kind(), ErrorKind::numeric);
                EXPECT_NE(std::string(error.what()).find("layer_norm"), std::string::npos) << error.what();
                EXPECT_NE(std::string(error.what()).find("row 1"), std::string::npos) << error.what();
            }
        }
    }
}

// `apply` changes x in place; it must do `step` to every element, on every table and number of threads, subnormals
// included, and nothing beyond.
void expect_elementwise(const std::function<void(Compute&, float*, std::int64_t)>& apply,
                        const std::function<float(float, std::size_t)>& step) {
    for (const std::size_t count : {std::size_t{1}, std::size_t{17}, std::size_t{4096}, std::size_t{9001}})
        for (const float deviation : {1.0f, 1e-38f}) {
            const std::vector<float> x = normal_floats(count, 3, deviation);
            std::vector<float> expected(x);
            for (std::size_t i = 0; i < count; ++i) expected[i] = step(x[i], i);
            expected.push_back(-7.0f);
            for (const auto& [name, compute] : every_compute()) {
                SCOPED_TRACE(name + ", count " + std::to_string(count));
                const testing::FlushSubnormals flush;
                std::vector<float> y(x);
                y.push_back(-7.0f);
                apply(*compute, y.data(), static_cast<std::int64_t>(count));
                expect_same_bits(y, expected);
            }
        }
}

TEST(Elementwise, OpsDoTheirOneThingToEveryElement) {
    const std::vector<float> other = normal_floats(9001, 4);
    const auto scalar = [](const auto& call) {  // one element through the scalar table
        return [call](float x, std::size_t i) {
            call(scalar_table(), &x, i);
            return x;
        };
    };
    expect_elementwise(
        [&](Compute& compute, float* x, std::int64_t n) { add_scaled(compute, x, 0.22f, other.data(), n); },
        [&](float x, std::size_t i) { return std::fma(0.22f, other[i], x); });
    expect_elementwise([](Compute& compute, float* x, std::int64_t n) { scale(compute, x, 0.37f, n); },
                       [](float x, std::size_t) { return x * 0.37f; });
    expect_elementwise([](Compute& compute, float* x, std::int64_t n) { clamp(compute, x, 0.5f, n); },
                       [](float x, std::size_t) { return std::fmin(0.5f, std::fmax(-0.5f, x)); });
    expect_elementwise([](Compute& compute, float* x, std::int64_t n) { softcap(compute, x, 1.5f, n); },
                       scalar([](const Table& table, float* x, std::size_t) { table.softcap(x, 1.5f, 1); }));
    expect_elementwise(
        [&](Compute& compute, float* x, std::int64_t n) { sigmoid_mul(compute, x, other.data(), n); },
        scalar([&](const Table& table, float* x, std::size_t i) { table.sigmoid_mul(x, &other[i], 1); }));
}

TEST(Elementwise, RowsAreScaledByTheirOwnFactor) {
    const int rows = 7;
    const std::vector<float> factors = {0.0f, -0.0f, 1e-39f, 2.5f, -80.0f, -100.0f, 1.0f};
    for (const int n : {1, 17, 300}) {
        const auto width = static_cast<std::size_t>(n);
        const std::vector<float> x = normal_floats(rows * width, 3);
        std::vector<float> plain(x), squashed(x);
        for (std::size_t i = 0; i < x.size(); ++i) {
            float sigmoid = 0;
            scalar_table().sigmoid(&factors[i / width], 1, &sigmoid);
            plain[i] *= factors[i / width];
            squashed[i] *= sigmoid;
        }
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name);
            const testing::FlushSubnormals flush;
            std::vector<float> y(x), z(x);
            scale_rows(*compute, y.data(), factors.data(), rows, n);
            scale_rows_by_sigmoid(*compute, z.data(), factors.data(), rows, n);
            expect_same_bits(y, plain);
            expect_same_bits(z, squashed);
        }
    }
}

}  // namespace
}  // namespace moestro::kernels
