#include <cmath>
#include <limits>

#include "base/error.h"
#include "kernels/matrices.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using testing::AlignedBytes;
using testing::every_compute;
using testing::every_format;
using testing::expect_same_bits;
using testing::FormatCase;
using testing::normal_floats;
using testing::PackedMatrix;
using testing::run_linear;
using testing::scalar_compute;

// docs/numerics.md, "Linear", one output at a time.
float linear_by_the_book(const PackedMatrix& weight, const float* x, int n) {
    const quant::MatrixSpec& spec = weight.matrix.spec;
    const int cols = spec.cols, groups = (cols + 31) / 32;
    std::vector<std::int8_t> codes(static_cast<std::size_t>(spec.rows * cols));
    std::vector<float> scales(static_cast<std::size_t>(spec.rows * groups));
    const bool integer = quant::is_integer(spec.format);
    if (integer) quant::unpack_codes(weight.matrix.data, spec, codes.data(), scales.data());
    float total = 0;
    for (int segment = 0; segment < cols; segment += 256) {
        float acc = 0;
        const int end = std::min(segment + 256, cols);
        if (!integer)
            for (int k = segment; k < end; ++k)
                acc = std::fma(weight.values[static_cast<std::size_t>(n * cols + k)], x[k], acc);
        for (int group = segment; integer && group < end; group += 32) {
            float absmax = 0;
            for (int k = group; k < std::min(group + 32, cols); ++k) absmax = std::max(absmax, std::fabs(x[k]));
            const float scale = absmax / 127.0f;
            int dot = 0;
            for (int k = group; k < std::min(group + 32, cols); ++k) {
                const float code =
                    scale == 0 ? 0.0f : std::fmin(std::fmax(std::nearbyint(x[k] / scale), -127.0f), 127.0f);
                dot += codes[static_cast<std::size_t>(n * cols + k)] * static_cast<int>(code);
            }
            acc = std::fma(scales[static_cast<std::size_t>(n * groups + group / 32)] * scale, static_cast<float>(dot),
                           acc);
        }
        total = total + acc;
    }
    return weight.matrix.bias ? total + weight.matrix.bias[n] : total;
}

class LinearFormats : public ::testing::TestWithParam<FormatCase> {
  protected:
    PackedMatrix random(int rows, int cols, unsigned seed = 7) const {
        return testing::random_matrix(rows, cols, GetParam().format, GetParam().scale, seed);
    }
};
INSTANTIATE_TEST_SUITE_P(All, LinearFormats, ::testing::ValuesIn(every_format()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(LinearFormats, ScalarFollowsTheBook) {
    for (int cols : {1, 31, 32, 33, 255, 256, 257, 511, 600}) {
        PackedMatrix weight = random(35, cols);
        const std::vector<float> bias = normal_floats(35, 3);
        weight.matrix.bias = bias.data();
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(2 * cols), 5);
        const std::vector<float> y = run_linear(scalar_compute(), weight.matrix, x, 2);
        for (int row = 0; row < 2; ++row)
            for (int n = 0; n < 35; ++n)
                ASSERT_EQ(y[static_cast<std::size_t>(row * 35 + n)],
                          linear_by_the_book(weight, x.data() + row * cols, n))
                    << "cols " << cols << " row " << row << " output " << n;
    }
}

TEST_P(LinearFormats, EveryTableGivesTheScalarBits) {
    const auto computes = every_compute();
    for (int rows : {1, 2, 3, 4, 5, 9, 67})
        for (int outputs : {1, 3, 15, 16, 17, 31, 33, 65})
            for (int cols : {1, 3, 15, 17, 31, 32, 33, 255, 257, 511}) {
                if (rows > 9 && cols > 33 && outputs != 17) continue;  // many rows: one wide case is enough
                const PackedMatrix weight = random(outputs, cols);
                const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * cols), 11);
                const std::vector<float> expected = run_linear(scalar_compute(), weight.matrix, x, rows);
                for (const auto& [name, compute] : computes) {
                    SCOPED_TRACE(name + ", rows " + std::to_string(rows) + ", outputs " + std::to_string(outputs) +
                                 ", cols " + std::to_string(cols));
                    expect_same_bits(run_linear(*compute, weight.matrix, x, rows), expected);
                    if (HasFatalFailure()) return;
                }
            }
}

TEST_P(LinearFormats, ManyPanelsSplitOverThreads) {
    const PackedMatrix weight = random(1500, 300);
    const std::vector<float> x = normal_floats(130 * 300, 13);
    const std::vector<float> expected = run_linear(scalar_compute(), weight.matrix, x, 130);
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        expect_same_bits(run_linear(*compute, weight.matrix, x, 130), expected);
    }
}

TEST_P(LinearFormats, ARowDoesNotSeeItsNeighbours) {
    const PackedMatrix weight = random(33, 290);
    const std::vector<float> x = normal_floats(70 * 290, 17);
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        const std::vector<float> together = run_linear(*compute, weight.matrix, x, 70);
        for (int row : {0, 1, 7, 63, 64, 69}) {
            const std::vector<float> alone(x.begin() + row * 290, x.begin() + (row + 1) * 290);
            expect_same_bits(run_linear(*compute, weight.matrix, alone, 1),
                             std::span(together).subspan(static_cast<std::size_t>(row * 33), 33));
        }
    }
}

TEST_P(LinearFormats, CloseToDoublePrecision) {
    const int rows = 5, outputs = 64, cols = 1000;
    const PackedMatrix weight = random(outputs, cols);
    const std::vector<float> x = normal_floats(rows * cols, 19);
    std::vector<double> reference;
    for (int row = 0; row < rows; ++row)
        for (int n = 0; n < outputs; ++n) {
            double sum = 0;
            for (int k = 0; k < cols; ++k)
                sum += static_cast<double>(weight.values[static_cast<std::size_t>(n * cols + k)]) *
                       x[static_cast<std::size_t>(row * cols + k)];
            reference.push_back(sum);
        }
    // Integer formats also round activations to 8 bits: uniform error of at most half a step of absmax / 127.
    const double bound = quant::is_integer(GetParam().format) ? 1e-4 : 1e-12;
    EXPECT_LT(testing::nmse(run_linear(scalar_compute(), weight.matrix, x, rows), reference), bound);
}

TEST_P(LinearFormats, SubnormalsSurviveACallerThatFlushesThem) {
    const int cols = 70;
    std::vector<float> x = normal_floats(3 * cols, 23, 1e-39f);
    for (int k = 0; k < 32; ++k)
        x[static_cast<std::size_t>(k)] = k == 5 ? 3e-45f : 0.0f;  // a scale that rounds to zero
    const PackedMatrix weight = random(20, cols);
    const std::vector<float> expected = run_linear(scalar_compute(), weight.matrix, x, 3);
    EXPECT_TRUE(std::any_of(expected.begin(), expected.end(), [](float v) { return v != 0; }));
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        std::vector<float> y;
        {
            const testing::FlushSubnormals flush;
            y = run_linear(*compute, weight.matrix, x, 3);
        }
        expect_same_bits(y, expected);
    }
}

// Matrices of one call stacked below each other, every one's rows followed by zeros up to `stride`.
struct StackedHeads {
    std::vector<PackedMatrix> heads;
    AlignedBytes bytes;
    HeadMatrices matrices;
};

StackedHeads stack_heads(const FormatCase& format, int heads, int rows, int cols, int more_panels) {
    StackedHeads made;
    std::size_t head_bytes = 0;
    for (int head = 0; head < heads; ++head) {
        made.heads.push_back(
            testing::random_matrix(rows, cols, format.format, format.scale, 50 + static_cast<unsigned>(head)));
        const quant::MatrixSpec& one = made.heads.back().matrix.spec;
        head_bytes = one.bytes() + static_cast<std::size_t>(more_panels) * one.panel_bytes();
        if (head == 0) made.bytes = testing::aligned_bytes(static_cast<std::size_t>(heads) * head_bytes);
        std::copy_n(made.heads.back().bytes.get(), one.bytes(),
                    made.bytes.get() + static_cast<std::size_t>(head) * head_bytes);
    }
    const quant::MatrixSpec& one = made.heads.front().matrix.spec;
    const int stride = (one.panels() + more_panels) * one.panel_rows();
    made.matrices = {{made.bytes.get(), {heads * stride, cols, format.format, format.scale}}, heads, rows, stride};
    return made;
}

TEST_P(LinearFormats, OneMatrixPerHeadIsALinearOfEveryHead) {
    struct Shape {
        int heads, rows, cols, more_panels, x_rows;
    };
    const auto computes = every_compute();
    for (const auto& [heads, rows, cols, more_panels, x_rows] : {Shape{1, 1, 1, 0, 1},
                                                                 {3, 33, 70, 0, 2},
                                                                 {5, 17, 257, 1, 1},
                                                                 {2, 64, 33, 0, 130},
                                                                 {7, 40, 300, 0, 67},
                                                                 {13, 200, 31, 2, 5}}) {
        const StackedHeads stacked = stack_heads(GetParam(), heads, rows, cols, more_panels);
        const auto inputs = static_cast<std::size_t>(x_rows * heads);
        const std::vector<float> x = normal_floats(inputs * static_cast<std::size_t>(cols), 3);
        const std::int64_t ldy = rows + 3;
        std::vector<float> expected(inputs * static_cast<std::size_t>(ldy), -7.0f);  // what lies between stays
        for (std::size_t at = 0; at < inputs; ++at) {
            const auto begin = x.begin() + static_cast<std::ptrdiff_t>(at) * cols;
            const std::vector<float> y = run_linear(
                scalar_compute(), stacked.heads[at % static_cast<std::size_t>(heads)].matrix, {begin, begin + cols}, 1);
            std::copy(y.begin(), y.end(), expected.begin() + static_cast<std::ptrdiff_t>(at) * ldy);
        }
        for (const auto& [name, compute] : computes) {
            SCOPED_TRACE(name + ", heads " + std::to_string(heads) + ", rows " + std::to_string(rows) + ", cols " +
                         std::to_string(cols));
            const testing::FlushSubnormals flush;
            Activations input;
            input.prepare(*compute, x.data(), static_cast<int>(inputs), cols, quant::is_integer(GetParam().format));
            std::vector<float> y(expected.size(), -7.0f);
            linear_by_head(*compute, input, stacked.matrices, y.data(), ldy);
            expect_same_bits(y, expected);
            if (HasFatalFailure()) return;
        }
    }
}

TEST(Linear, ExtremeCodesDoNotSaturate) {
    for (quant::Format format : {quant::Format::q8, quant::Format::q4}) {
        for (float sign : {1.0f, -1.0f}) {
            std::vector<float> w(16 * 64), x(64);
            for (std::size_t i = 0; i < w.size(); ++i) w[i] = i % 2 ? 1.0f : sign;
            for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 2 ? 1.0f : -sign;
            const PackedMatrix weight = testing::pack_matrix(w, 16, 64, format, quant::ScaleType::f32);
            const std::vector<float> expected = run_linear(scalar_compute(), weight.matrix, x, 1);
            for (const auto& [name, compute] : every_compute()) {
                SCOPED_TRACE(name);
                expect_same_bits(run_linear(*compute, weight.matrix, x, 1), expected);
            }
        }
    }
}

TEST(Linear, SeveralMatricesOfOneCallAndWiderRows) {
    const PackedMatrix a = testing::random_matrix(40, 96, quant::Format::q8, quant::ScaleType::f16, 1);
    PackedMatrix b = testing::random_matrix(7, 96, quant::Format::bf16, quant::ScaleType::none, 2);
    const std::vector<float> bias = normal_floats(7, 4), x = normal_floats(3 * 96, 3);
    b.matrix.bias = bias.data();
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        Activations input;
        input.prepare(*compute, x.data(), 3, 96, true);
        std::vector<float> y(3 * 50, 9.0f);  // 40 | 7 | 3 untouched
        const LinearJob jobs[] = {{a.matrix, y.data(), 50}, {b.matrix, y.data() + 40, 50}};
        linear(*compute, input, jobs);
        const std::vector<float> ya = run_linear(scalar_compute(), a.matrix, x, 3);
        const std::vector<float> yb = run_linear(scalar_compute(), b.matrix, x, 3);
        for (std::size_t row = 0; row < 3; ++row) {
            expect_same_bits(std::span(y).subspan(row * 50, 40), std::span(ya).subspan(row * 40, 40));
            expect_same_bits(std::span(y).subspan(row * 50 + 40, 7), std::span(yb).subspan(row * 7, 7));
            for (std::size_t i = 47; i < 50; ++i) EXPECT_EQ(y[row * 50 + i], 9.0f);
        }
    }
}

TEST(Activations, CodesScalesAndSumsAreTheSameEverywhere) {
    for (int cols : {1, 15, 16, 17, 31, 32, 33, 63, 64, 255, 257}) {
        std::vector<float> x = normal_floats(static_cast<std::size_t>(2 * cols), 29);
        x[0] = -0.0f;
        Activations expected;
        expected.prepare(scalar_compute(), x.data(), 2, cols, true);
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name + ", cols " + std::to_string(cols));
            Activations actual;
            actual.prepare(*compute, x.data(), 2, cols, true);
            EXPECT_EQ(actual.codes, expected.codes);
            EXPECT_EQ(actual.sums, expected.sums);
            expect_same_bits(actual.scales, expected.scales);
        }
        EXPECT_EQ(expected.codes.size() + 4 * expected.scales.size() + 4 * expected.sums.size(),
                  Activations::bytes(2, cols, true, Math::exact));
    }
}

TEST(Activations, TakeNoMoreThanTheySayHoweverTheyGrew) {
    const std::vector<float> x = normal_floats(64 * 96, 37);
    Activations input;
    for (const int rows : {1, 40, 7, 50, 64}) input.prepare(scalar_compute(), x.data(), rows, 96, true);
    EXPECT_EQ(input.codes.capacity() + 4 * input.scales.capacity() + 4 * input.sums.capacity(),
              Activations::bytes(64, 96, true, Math::exact));
}

TEST(Activations, NonFiniteInputIsRefusedByName) {
    for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                      std::numeric_limits<float>::quiet_NaN()}) {
        for (std::size_t at : {std::size_t{0}, std::size_t{33}, std::size_t{69}}) {
            std::vector<float> x = normal_floats(2 * 70, 31);
            x[70 + at] = bad;
            for (const auto& [name, compute] : every_compute()) {
                SCOPED_TRACE(name);
                Activations input;
                input.prepare(*compute, x.data(), 2, 70, false);  // float formats look at norms and routers only
                try {
                    input.prepare(*compute, x.data(), 2, 70, true);
                    FAIL() << "expected an error";
                } catch (const Error& error) {
                    EXPECT_EQ(error.kind(), ErrorKind::numeric);
                    EXPECT_NE(std::string(error.what()).find("row 1"), std::string::npos) << error.what();
                }
            }
        }
    }
}

}  // namespace
}  // namespace moestro::kernels
