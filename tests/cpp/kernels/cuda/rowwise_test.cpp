// Elementwise kernels, norms and rotations against the scalar table, to the bit.
#include <limits>
#include <numeric>

#include "base/error.h"
#include "kernels/bits.h"
#include "kernels/cuda/on_device.h"
#include "kernels/ops.h"
#include "kernels/table.h"
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

constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNaN = std::numeric_limits<float>::quiet_NaN();

// Every edge of exp, tanh and the gates, each followed by every other; then numbers of all sizes.
struct Operands {
    std::vector<float> one, other;
};
Operands operands() {
    std::vector<float> edges = {0.0f,       -0.0f,  1e-45f,    -1e-45f,    1e-38f,  -1e-38f, 0.625f,  -0.625f,
                                0.6249999f, 7.0f,   -7.0f,     7.5f,       -7.5f,   1.0f,    -1.0f,   88.7f,
                                -88.7f,     89.0f,  -89.0f,    103.9f,     -103.9f, 104.5f,  -104.5f, 500.0f,
                                3e38f,      -3e38f, kInfinity, -kInfinity, kNaN};
    Operands made;
    for (const float one : edges)
        for (const float other : edges) {
            made.one.push_back(one);
            made.other.push_back(other);
        }
    for (const float deviation : {1e-38f, 0.1f, 1.0f, 30.0f})
        for (const float value : normal_floats(1001, 1, deviation)) {
            made.one.push_back(value);
            made.other.push_back(made.one[made.one.size() / 2]);
        }
    return made;
}

template <class Expected, class Launch>
void expect_elementwise(const Expected& expected, const Launch& launch) {
    const auto [x, y] = operands();
    std::vector<float> wanted(x);
    expected(wanted.data(), y.data(), static_cast<std::int64_t>(x.size()));
    in_every_order([&] {
        const OnDevice<float> on_x(x), on_y(y);
        ASSERT_EQ(launch(on_x.data(), on_y.data(), static_cast<std::int64_t>(x.size())), 0);
        expect_same_bits(on_x.read(), wanted);
    });
    ASSERT_EQ(launch(nullptr, nullptr, 0), 0);
}

TEST(CudaElementwise, IsTheScalarTables) {
    Compute& compute = scalar_compute();
    expect_elementwise([&](float* x, const float* y, std::int64_t n) { add(compute, x, y, n); },
                       [](float* x, const float* y, std::int64_t n) { return cuda::add(x, y, n, nullptr); });
    for (const float factor : {0.1f, -3.0f}) {
        expect_elementwise(
            [&](float* x, const float* y, std::int64_t n) { add_scaled(compute, x, factor, y, n); },
            [&](float* x, const float* y, std::int64_t n) { return cuda::add_scaled(x, factor, y, n, nullptr); });
        expect_elementwise([&](float* x, const float*, std::int64_t n) { scale(compute, x, factor, n); },
                           [&](float* x, const float*, std::int64_t n) { return cuda::scale(x, factor, n, nullptr); });
    }
    expect_elementwise([&](float* x, const float* y, std::int64_t n) { sigmoid_mul(compute, x, y, n); },
                       [](float* x, const float* y, std::int64_t n) { return cuda::sigmoid_mul(x, y, n, nullptr); });
    expect_elementwise([&](float* x, const float*, std::int64_t n) { clamp(compute, x, 7.5f, n); },
                       [](float* x, const float*, std::int64_t n) { return cuda::clamp(x, 7.5f, n, nullptr); });
    for (const float cap : {1.0f, 30.0f})
        expect_elementwise([&](float* x, const float*, std::int64_t n) { softcap(compute, x, cap, n); },
                           [&](float* x, const float*, std::int64_t n) { return cuda::softcap(x, cap, n, nullptr); });
}

TEST(CudaRows, AreScaled) {
    constexpr int rows = 5;
    for (const int n : {1, 31, 256, 700}) {
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * n), 1);
        const std::vector<float> factors = {0.5f, -120.0f, 0.0f, 3.0f, kInfinity};
        std::vector<float> scaled(x), weighed(x);
        scale_rows(scalar_compute(), scaled.data(), factors.data(), rows, n);
        scale_rows_by_sigmoid(scalar_compute(), weighed.data(), factors.data(), rows, n);
        in_every_order([&] {
            const OnDevice<float> one(x), other(x), on_factors(factors);
            ASSERT_EQ(cuda::scale_rows(one.data(), on_factors.data(), rows, n, nullptr), 0);
            ASSERT_EQ(cuda::scale_rows_by_sigmoid(other.data(), on_factors.data(), rows, n, nullptr), 0);
            expect_same_bits(one.read(), scaled);
            expect_same_bits(other.read(), weighed);
        });
    }
}

// Sizes on both sides of how many rows a block has, and of what it sums at once.
constexpr int kSizes[] = {1, 3, 15, 16, 17, 33, 64, 128, 255, 256, 257, 1024, 2048, 2049, 4096, 4097, 9000};

TEST(CudaNorms, AreTheScalarTables) {
    for (const int n : kSizes)
        for (const int rows : {1, 3, 16, 35}) {
            if (rows > 3 && n > 300) continue;
            SCOPED_TRACE("rows " + std::to_string(rows) + " of " + std::to_string(n));
            const auto width = static_cast<std::size_t>(n);
            const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows) * width, 1, 3.0f),
                                     w = normal_floats(width, 2), b = normal_floats(width, 3);
            std::vector<float> rms(x.size()), layer(x.size()), biased(x.size());
            rms_norm(scalar_compute(), x.data(), w.data(), 1e-6f, rows, n, rms.data());
            layer_norm(scalar_compute(), x.data(), w.data(), nullptr, 1e-5f, rows, n, layer.data());
            layer_norm(scalar_compute(), x.data(), w.data(), b.data(), 1e-5f, rows, n, biased.data());
            in_every_order([&] {
                const OnDevice<float> in(x), y(x.size()), on_w(w), on_b(b);
                const FaultWord fault;
                const auto put = [&](cuda::Status status, const OnDevice<float>& from, std::span<const float> wanted) {
                    ASSERT_EQ(status, 0);
                    expect_same_bits(from.read(), wanted);
                };
                const auto layer_norm = [&](const float* bias, float* to) {
                    return cuda::layer_norm(in.data(), on_w.data(), bias, 1e-5f, rows, n, to, fault.data(), nullptr);
                };
                const auto rms_norm = [&](float* to) {
                    return cuda::rms_norm(in.data(), on_w.data(), 1e-6f, rows, n, to, fault.data(), nullptr);
                };
                put(rms_norm(y.data()), y, rms);
                put(layer_norm(nullptr, y.data()), y, layer);
                put(layer_norm(on_b.data(), y.data()), y, biased);
                put(rms_norm(in.data()), in, rms);  // in place
                in.write(x);
                put(layer_norm(on_b.data(), in.data()), in, biased);
                EXPECT_EQ(fault.read(), Fault::none);
            });
            if (HasFatalFailure()) return;
        }
}

TEST(CudaNorms, ASumThatIsNotFiniteIsAFault) {
    for (const int n : {20, 5000})
        for (const float bad : {kInfinity, -kInfinity, kNaN, 1e30f}) {
            std::vector<float> x(static_cast<std::size_t>(3 * n), 1.0f);
            x[x.size() - 3] = bad;
            const OnDevice<float> in(x), w(std::vector<float>(static_cast<std::size_t>(n), 1.0f)), y(x.size());
            const FaultWord rms, layer, none;
            ASSERT_EQ(cuda::rms_norm(in.data(), w.data(), 1e-6f, 3, n, y.data(), rms.data(), nullptr), 0);
            ASSERT_EQ(cuda::layer_norm(in.data(), w.data(), nullptr, 1e-6f, 3, n, y.data(), layer.data(), nullptr), 0);
            ASSERT_EQ(cuda::rms_norm(in.data(), w.data(), 1e-6f, 2, n, y.data(), none.data(), nullptr), 0);
            EXPECT_EQ(rms.read(), Fault::norm);
            EXPECT_EQ(layer.read(), Fault::norm);
            EXPECT_EQ(none.read(), Fault::none);
        }
}

TEST(CudaRope, IsTheScalarTables) {
    constexpr int rows = 4, heads = 3;
    for (const RopePairs pairs : {RopePairs::halves, RopePairs::neighbours})
        for (const auto& [head_dim, first, half] :
             {std::tuple{2, 0, 1}, {40, 0, 20}, {128, 0, 64}, {128, 0, 16}, {192, 128, 32}, {33, 1, 16}}) {
            const auto angles = static_cast<std::size_t>(rows * half);
            std::vector<float> frequencies(static_cast<std::size_t>(half)), cos(angles), sin(angles);
            for (std::size_t i = 0; i < frequencies.size(); ++i) frequencies[i] = 1.0f / static_cast<float>(1 + 3 * i);
            const std::vector<std::int64_t> positions = {0, 1, 77, 5000};
            rope_table(positions.data(), frequencies.data(), false, 1.1f, rows, half, cos.data(), sin.data());
            std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * heads * head_dim), 4);
            x[static_cast<std::size_t>(first)] = -0.0f;
            std::vector<float> turned(x);
            rope(scalar_compute(), {turned.data(), rows, heads, head_dim, first, half, pairs}, cos.data(), sin.data());
            in_every_order([&] {
                const OnDevice<float> on(x), on_cos(cos), on_sin(sin);
                const RopeJob job{on.data(), rows, heads, head_dim, first, half, pairs};
                ASSERT_EQ(cuda::rope(job, on_cos.data(), on_sin.data(), nullptr), 0);
                expect_same_bits(on.read(), turned);
            });
        }
}

}  // namespace
}  // namespace moestro::kernels
