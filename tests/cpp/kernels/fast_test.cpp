// Fast math (docs/numerics.md): on this CPU where it has AVX512_BF16, emulated everywhere else. The emulated table
// shows that layout, tails and the definition are right; the native one that the CPU's own sums obey what is promised
// of them.
#include <cmath>
#include <limits>

#include "base/error.h"
#include "kernels/matrices.h"
#include "kernels/tables.h"
#include "quant/convert.h"

namespace moestro::kernels {
namespace {

using testing::expect_same_bits;
using testing::normal_floats;
using testing::PackedMatrix;
using testing::run_linear;
using testing::scalar_compute;

constexpr testing::FormatCase kBf16{quant::Format::bf16, quant::ScaleType::none};

std::vector<testing::NamedCompute> every_fast_compute() {
    return testing::threaded(testing::fast_tables());
}
bool is_emulated(const testing::NamedCompute& compute) {
    return compute.name.starts_with("emulated");
}

PackedMatrix random(int rows, int cols, unsigned seed = 7) {
    return testing::random_matrix(rows, cols, kBf16.format, kBf16.scale, seed);
}

float flush(float v) {
    return std::fabs(v) < std::numeric_limits<float>::min() ? std::copysign(0.0f, v) : v;
}

// docs/numerics.md, "Fast math", one output at a time.
float fast_by_the_book(const PackedMatrix& weight, const float* x, int n) {
    const int cols = weight.matrix.spec.cols;
    const auto product = [&](int k, float acc) {
        if (k >= cols) return flush(acc);
        const float w = weight.values[static_cast<std::size_t>(n * cols + k)];
        return flush(std::fma(flush(w), flush(quant::widen(quant::to_bf16(x[k]))), acc));
    };
    float total = 0;
    for (int segment = 0; segment < cols; segment += 256) {
        float acc = 0;
        for (int k = segment; k < std::min(segment + 256, cols); k += 2) acc = product(k, product(k + 1, acc));
        total = total + acc;
    }
    return weight.matrix.bias ? total + weight.matrix.bias[n] : total;
}

TEST(Fast, RunsNatively) {
    const IsaChoice choice = choose_isa("", Math::fast);
    if (choice.math == Math::exact)
        GTEST_SKIP() << choice.refused.back() << "; the kernels of fast math are tested only emulated";
    EXPECT_EQ(choice.table, &avx512bf16_table());
}

TEST(Fast, IsEmulatedForTheTestsBesideThis) {
#ifndef MOESTRO_TEST_EMULATED_AVX512
    GTEST_SKIP() << "built without SIMDe (libsimde-dev) or with sanitizers: no emulated fast math";
#endif
    EXPECT_FALSE(testing::fast_tables().empty());
}

TEST(Fast, EmulatedFollowsTheBookAndTheCpuIsClose) {
    const int rows = 11;
    for (int outputs : {1, 4, 15, 16, 17, 31, 33, 65})
        for (int cols : {1, 2, 31, 32, 33, 255, 256, 257, 511, 600}) {
            PackedMatrix weight = random(outputs, cols);
            const std::vector<float> bias = normal_floats(static_cast<std::size_t>(outputs), 3);
            weight.matrix.bias = bias.data();
            const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * cols), 5);
            std::vector<float> expected;
            for (int row = 0; row < rows; ++row)
                for (int n = 0; n < outputs; ++n)
                    expected.push_back(fast_by_the_book(weight, x.data() + row * cols, n));
            for (const auto& compute : every_fast_compute()) {
                SCOPED_TRACE(compute.name + ", outputs " + std::to_string(outputs) + ", cols " + std::to_string(cols));
                const std::vector<float> y = run_linear(*compute.compute, weight.matrix, x, rows);
                if (is_emulated(compute))
                    expect_same_bits(y, expected);
                else
                    EXPECT_LT(testing::nmse(y, std::vector<double>(expected.begin(), expected.end())), 1e-12);
                if (HasFatalFailure()) return;
            }
        }
}

TEST(Fast, ARowSeesNeitherItsNeighboursNorThreads) {
    const PackedMatrix weight = random(300, 290);
    const std::vector<float> x = normal_floats(130 * 290, 17);
    std::string table;
    std::vector<float> first;  // of the same table, one thread
    for (const auto& [name, compute] : every_fast_compute()) {
        SCOPED_TRACE(name);
        const std::vector<float> together = run_linear(*compute, weight.matrix, x, 130);
        if (table != name.substr(0, name.find(','))) {
            table = name.substr(0, name.find(','));
            first = together;
        }
        expect_same_bits(together, first);
        for (int count : {1, 2, 7, 8, 9, 66}) {
            const std::vector<float> some(x.begin() + 3 * 290, x.begin() + (3 + count) * 290);
            expect_same_bits(run_linear(*compute, weight.matrix, some, count),
                             std::span(together).subspan(3 * 300, static_cast<std::size_t>(count) * 300));
        }
    }
}

TEST(Fast, OtherFormatsKeepTheirBits) {
    const std::vector<float> x = normal_floats(9 * 290, 19);
    for (const testing::FormatCase& format : testing::every_format()) {
        if (format.format == quant::Format::bf16) continue;
        const PackedMatrix weight = testing::random_matrix(33, 290, format.format, format.scale, 7);
        const std::vector<float> expected = run_linear(scalar_compute(), weight.matrix, x, 9);
        for (const auto& [name, compute] : every_fast_compute()) {
            SCOPED_TRACE(name + ", " + format.name());
            expect_same_bits(run_linear(*compute, weight.matrix, x, 9), expected);
        }
    }
}

// What docs/numerics.md states.
TEST(Fast, LinearIsAsCloseToExactAsStated) {
    for (int cols : {64, 1000, 2048}) {
        const PackedMatrix weight = random(64, cols);
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(8 * cols), 23);
        const std::vector<float> exact = run_linear(scalar_compute(), weight.matrix, x, 8);
        const std::vector<double> reference(exact.begin(), exact.end());
        for (const auto& [name, compute] : every_fast_compute()) {
            SCOPED_TRACE(name + ", cols " + std::to_string(cols));
            const double error = testing::nmse(run_linear(*compute, weight.matrix, x, 8), reference);
            EXPECT_LT(error, 5e-6);
            EXPECT_GT(error, 1e-7) << "activations were not rounded: this is not fast math";
        }
    }
}

TEST(Fast, ActivationsAreRoundedToNearestEvenAndPadded) {
    for (int cols : {1, 15, 16, 17, 31, 32, 33, 63, 65}) {
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(2 * cols), 29);
        for (const auto& [name, compute] : every_fast_compute()) {
            SCOPED_TRACE(name + ", cols " + std::to_string(cols));
            Activations input;
            input.prepare(*compute, x.data(), 2, cols, false);
            const int padded = input.groups * 32;
            ASSERT_EQ(input.pairs.size(), static_cast<std::size_t>(padded));
            for (int row = 0; row < 2; ++row)
                for (int k = 0; k < padded; ++k) {
                    const std::uint32_t pair = input.pairs[static_cast<std::size_t>((row * padded + k) / 2)];
                    const auto half = static_cast<std::uint16_t>(k % 2 ? pair >> 16 : pair);
                    const auto expected =
                        k < cols ? quant::to_bf16(x[static_cast<std::size_t>(row * cols + k)]).bits : 0;
                    ASSERT_EQ(half, expected) << "row " << row << ", column " << k;
                }
            EXPECT_EQ(4 * input.pairs.capacity(), Activations::bytes(2, cols, false, Math::fast));
            EXPECT_EQ(Activations::bytes(2, cols, true, Math::fast),
                      Activations::bytes(2, cols, true, Math::exact) + 4 * input.pairs.size());
        }
    }
}

TEST(Fast, WhatIsNotFiniteOnceRoundedIsRefusedByName) {
    const float inf = std::numeric_limits<float>::infinity();
    for (float bad : {inf, -inf, std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::max()})
        for (std::size_t at : {std::size_t{0}, std::size_t{33}, std::size_t{69}}) {
            std::vector<float> x = normal_floats(2 * 70, 31);
            x[70 + at] = bad;
            for (const auto& [name, compute] : every_fast_compute()) {
                SCOPED_TRACE(name);
                Activations input;
                try {
                    input.prepare(*compute, x.data(), 2, 70, false);
                    FAIL() << "expected an error";
                } catch (const Error& error) {
                    EXPECT_EQ(error.kind(), ErrorKind::numeric);
                    EXPECT_NE(std::string(error.what()).find("row 1"), std::string::npos) << error.what();
                }
            }
        }
    std::vector<float> x = normal_floats(70, 31);
    x[69] = std::bit_cast<float>(0x7f7f7fffu);  // the largest that rounds to a finite one
    for (const auto& [name, compute] : every_fast_compute()) {
        Activations input;
        EXPECT_NO_THROW(input.prepare(*compute, x.data(), 1, 70, false)) << name;
    }
}

TEST(FastMath, IsRefusedWithItsReasonWhereItCannotBeHad) {
    const IsaChoice scalar = choose_isa("scalar", Math::fast);
    EXPECT_EQ(scalar.math, Math::exact);
    EXPECT_EQ(scalar.table, &scalar_table());
    const std::string& said = scalar.refused.back();
    EXPECT_TRUE(said.starts_with("fast math: ")) << said;
    EXPECT_TRUE(said.ends_with(", so math='fast' computes exactly")) << said;
    EXPECT_TRUE(said.find("MOESTRO_ISA=scalar") != std::string::npos ||
                said.find("this CPU lacks") != std::string::npos)
        << said;
    EXPECT_EQ(choose_isa("scalar").refused.size() + 1, scalar.refused.size()) << "not asked for, not refused";
    const IsaChoice best = choose_isa("", Math::fast);
    EXPECT_EQ(best.math == Math::fast, best.refused.empty());
    EXPECT_EQ(choose_isa("").table->round_pairs, nullptr);
}

TEST(FastMath, NamesAreParsed) {
    EXPECT_EQ(parse_math("exact"), Math::exact);
    EXPECT_EQ(parse_math("fast"), Math::fast);
    EXPECT_EQ(name(Math::fast), "fast");
    EXPECT_THROW(parse_math("faster"), Error);
}

}  // namespace
}  // namespace moestro::kernels
