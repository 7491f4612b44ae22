#include <cmath>
#include <limits>

#include "kernels/cuda/multiplying.h"

namespace moestro::kernels::cuda {
namespace {

using namespace moestro::testing;

class CudaLinearFormats : public ::testing::TestWithParam<FormatCase> {
  protected:
    void SetUp() override { cuda_shim::reset(); }

    PackedMatrix random(int rows, int cols, unsigned seed = 7) const {
        return random_matrix(rows, cols, GetParam().format, GetParam().scale, seed);
    }
};
INSTANTIATE_TEST_SUITE_P(All, CudaLinearFormats, ::testing::ValuesIn(every_format()),
                         [](const auto& info) { return info.param.name(); });

// One matrix over rows 0 .. rows - 1.
std::vector<float> run(const Matrix& weight, const std::vector<float>& x, int rows) {
    DeviceMemory memory;
    KeepingCourier courier;
    const DeviceRows input = device_rows(memory, x, rows, weight.spec.cols);
    const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(weight.spec.rows);
    const LinearItem item{memory.copy(weight), nullptr, 0, rows, memory.room<float>(count), weight.spec.rows};
    EXPECT_EQ(linear(input.inputs, &item, 1, courier, nullptr), cudaSuccess);
    return from_device(item.y, count);
}

TEST_P(CudaLinearFormats, AnyShapeGivesTheScalarBits) {
    for (int rows : {1, 2, 3, 4, 5, 8, 9, 17, 70})
        for (int outputs : {1, 15, 17, 32, 33, 65, 130})
            for (int cols : {1, 31, 33, 129, 255, 257, 600}) {
                const bool large = rows > 5 && (cols > 33 || outputs > 33);  // some of the large ones are enough
                if (large && (outputs != 65 || cols < 129) && (outputs != 130 || cols != 257)) continue;
                if (testing::kSlow && (large ? cols != 257 : outputs > 33 || cols > 257)) continue;
                SCOPED_TRACE("rows " + std::to_string(rows) + ", outputs " + std::to_string(outputs) + ", cols " +
                             std::to_string(cols));
                PackedMatrix weight = random(outputs, cols);
                const std::vector<float> bias = normal_floats(static_cast<std::size_t>(outputs), 3);
                if (outputs % 2) weight.matrix.bias = bias.data();
                const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * cols), 11);
                expect_same_bits(run(weight.matrix, x, rows), run_linear(scalar_compute(), weight.matrix, x, rows));
                if (HasFatalFailure()) return;
            }
}

// More segments than sums of eight rows fit into shared memory at once.
TEST_P(CudaLinearFormats, SumsOfManySegmentsComeInRounds) {
    for (int rows : {1, 3, 8, 9}) {
        const PackedMatrix weight = random(17, 4450);
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows) * 4450, 13);
        expect_same_bits(run(weight.matrix, x, rows), run_linear(scalar_compute(), weight.matrix, x, rows));
    }
    const PackedMatrix weight = random(3, 65 * 256 + 5);
    const std::vector<float> x = normal_floats(65 * 256 + 5, 13);
    expect_same_bits(run(weight.matrix, x, 1), run_linear(scalar_compute(), weight.matrix, x, 1));
}

TEST_P(CudaLinearFormats, WideTilesGiveTheSameBits) {
    const PackedMatrix weight = random(64 * 512 + 40, 40);  // as many tiles of 64 outputs as make them worth while
    const std::vector<float> x = normal_floats(2 * 40, 17);
    expect_same_bits(run(weight.matrix, x, 2), run_linear(scalar_compute(), weight.matrix, x, 2));
}

TEST_P(CudaLinearFormats, NoOrderOfThreadsChangesABit) {
    const PackedMatrix weight = random(50, 530);
    const std::vector<float> x = normal_floats(20 * 530, 19);
    for (int rows : {3, 20}) {
        const std::vector<float> expected = run_linear(scalar_compute(), weight.matrix, x, 20);
        for (const cuda_shim::Order order : kOrders)
            for (std::uint64_t seed : {1, 2}) {
                cuda_shim::set_order(order, seed);
                const std::vector<float> some(x.begin(), x.begin() + rows * 530);
                expect_same_bits(run(weight.matrix, some, rows),
                                 std::span(expected).first(static_cast<std::size_t>(rows * 50)));
            }
    }
}

TEST_P(CudaLinearFormats, ExtremeCodesAreExact) {
    const int cols = 256;
    std::vector<float> weights(16 * cols), x(9 * cols);
    for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = i % 3 ? -1.0f : 1.0f;
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = i % 3 ? -127.0f : 127.0f;
    const PackedMatrix weight = pack_matrix(weights, 16, cols, GetParam().format, GetParam().scale);
    for (int rows : {1, 9}) {
        const std::vector<float> some(x.begin(), x.begin() + rows * cols);
        expect_same_bits(run(weight.matrix, some, rows), run_linear(scalar_compute(), weight.matrix, some, rows));
    }
}

TEST_P(CudaLinearFormats, ByHead) {
    const int heads = 3, outputs = 20, stride = 32, cols = 290;
    for (int rows : {2, 11}) {
        const PackedMatrix stacked = random(heads * stride, cols);
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * heads * cols), 23);
        const HeadMatrices weights{stacked.matrix, heads, outputs, stride};
        const int ldy = 25;
        const auto count = static_cast<std::size_t>(rows * heads * ldy);
        Activations prepared;
        prepared.prepare(scalar_compute(), x.data(), rows * heads, cols, true);
        std::vector<float> expected(count, -1.0f);
        kernels::linear_by_head(scalar_compute(), prepared, weights, expected.data(), ldy);

        DeviceMemory memory;
        KeepingCourier courier;
        const DeviceRows input = device_rows(memory, x, rows * heads, cols);
        float* const y = memory.copy(std::vector<float>(count, -1.0f));
        const HeadMatrices there{memory.copy(stacked.matrix), heads, outputs, stride};
        ASSERT_EQ(cuda::linear_by_head(input.inputs, rows, there, y, ldy, courier, nullptr), cudaSuccess);
        expect_same_bits(from_device(y, count), expected);
    }
}

class CudaLinear : public ::testing::Test {
  protected:
    void SetUp() override { cuda_shim::reset(); }
};

// Every format at once, over uneven and empty lists of rows.
TEST_F(CudaLinear, ItemsOfAllFormatsShareALaunch) {
    const int rows = 40, cols = 300;
    const std::vector<float> x = normal_floats(rows * cols, 29);
    DeviceMemory memory;
    KeepingCourier courier;
    const DeviceRows input = device_rows(memory, x, rows, cols);
    std::vector<PackedMatrix> weights;
    std::vector<std::vector<std::int32_t>> ids;
    std::vector<LinearItem> items;
    int number = 0;
    for (const FormatCase& format : every_format())
        for (int count : {1, 0, 7, 19}) {
            const int outputs = 10 + 13 * (number % 7);
            weights.push_back(random_matrix(outputs, cols, format.format, format.scale, static_cast<unsigned>(number)));
            ids.emplace_back();
            for (int i = 0; i < count; ++i) ids.back().push_back((i * 2 + number) % rows);
            float* const y = memory.room<float>(static_cast<std::size_t>(count * (outputs + 3)));
            items.push_back({memory.copy(weights.back().matrix), memory.copy(ids.back()), 0, count, y, outputs + 3});
            ++number;
        }
    ASSERT_EQ(cuda::linear(input.inputs, items.data(), number, courier, nullptr), cudaSuccess);
    for (std::size_t i = 0; i < items.size(); ++i) {
        std::vector<float> chosen;
        for (std::int32_t row : ids[i])
            chosen.insert(chosen.end(), x.begin() + row * cols, x.begin() + (row + 1) * cols);
        const int outputs = weights[i].matrix.spec.rows, count = items[i].count;
        if (count == 0) continue;
        const std::vector<float> expected = run_linear(scalar_compute(), weights[i].matrix, chosen, count);
        const std::vector<float> y = from_device(items[i].y, static_cast<std::size_t>(count * (outputs + 3)));
        for (int row = 0; row < count; ++row)
            expect_same_bits(std::span(y).subspan(static_cast<std::size_t>(row * (outputs + 3))).first(outputs),
                             std::span(expected).subspan(static_cast<std::size_t>(row * outputs)).first(outputs));
    }
}

TEST_F(CudaLinear, ACourierThatCannotIsSaid) {
    DeviceMemory memory;
    KeepingCourier courier;
    courier.refuses = true;
    const PackedMatrix weight = random_matrix(8, 32, quant::Format::q8, quant::ScaleType::f16, 1);
    const DeviceRows input = device_rows(memory, normal_floats(32, 2), 1, 32);
    const LinearItem item{memory.copy(weight.matrix), nullptr, 0, 1, memory.room<float>(8), 8};
    EXPECT_EQ(cuda::linear(input.inputs, &item, 1, courier, nullptr), cudaErrorMemoryAllocation);
    EXPECT_EQ(cuda::linear(input.inputs, &item, 0, courier, nullptr), cudaSuccess);
}

TEST_F(CudaLinear, QuantisesAsTheTableDoes) {
    for (int cols : {1, 31, 32, 33, 100, 600}) {
        std::vector<float> x = normal_floats(static_cast<std::size_t>(5 * cols), 31);
        for (std::size_t i = 0; i < x.size(); ++i)
            x[i] *= i % 50 < 10 ? 1e-40f : i % 50 < 20 ? 0.0f : i % 50 < 30 ? 1e38f : 1.0f;
        DeviceMemory memory;
        const DeviceRows rows = device_rows(memory, x, 5, cols);
        Activations expected;
        expected.prepare(scalar_compute(), x.data(), 5, cols, true);
        EXPECT_EQ(fault_of(rows), Fault::none);
        EXPECT_EQ(from_device(rows.inputs.codes.codes, expected.codes.size()), expected.codes);
        EXPECT_EQ(from_device(rows.inputs.codes.sums, expected.sums.size()), expected.sums);
        expect_same_bits(from_device(rows.inputs.codes.scales, expected.scales.size()), expected.scales);
    }
}

TEST_F(CudaLinear, WhatIsNotFiniteIsAFault) {
    for (float bad : {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(), std::nanf("")}) {
        std::vector<float> x = normal_floats(3 * 70, 37);
        x[150] = bad;
        DeviceMemory memory;
        EXPECT_EQ(fault_of(device_rows(memory, x, 3, 70)), Fault::quantise);
    }
}

}  // namespace
}  // namespace moestro::kernels::cuda
