#include <cmath>
#include <limits>

#include "kernels/cuda/multiplying.h"

namespace moestro::kernels::cuda {
namespace {

using namespace moestro::testing;
using quant::Format, quant::ScaleType;

// Experts in host memory, and which rows each computes.
struct Experts {
    Experts(int hidden, int width) : hidden(hidden), width(width) {}

    int hidden, width;
    std::vector<PackedMatrix> gates, ups, downs;
    std::vector<GateKind> kinds;
    std::vector<std::vector<std::int32_t>> rows;
    std::list<std::vector<float>> biases;

    void add(FormatCase gate, FormatCase up, FormatCase down, GateKind kind, std::vector<std::int32_t> ids,
             bool biased = false) {
        const auto seed = static_cast<unsigned>(10 * gates.size());
        gates.push_back(random_matrix(width, hidden, gate.format, gate.scale, seed));
        ups.push_back(random_matrix(width, hidden, up.format, up.scale, seed + 1));
        downs.push_back(random_matrix(hidden, width, down.format, down.scale, seed + 2));
        for (PackedMatrix* matrix : {&gates.back(), &ups.back(), &downs.back()})
            if (biased) {
                biases.push_back(normal_floats(static_cast<std::size_t>(matrix->matrix.spec.rows), seed + 3));
                matrix->matrix.bias = biases.back().data();
            }
        kinds.push_back(kind);
        rows.push_back(std::move(ids));
    }
    std::size_t outputs(std::size_t expert) const { return rows[expert].size() * static_cast<std::size_t>(hidden); }
};
using Outputs = std::vector<std::vector<float>>;

Outputs expected_of(const Experts& all, const std::vector<float>& x) {
    Activations input;
    input.prepare(scalar_compute(), x.data(), static_cast<int>(x.size()) / all.hidden, all.hidden, true);
    Outputs y;
    std::vector<ExpertJob> jobs;
    for (std::size_t i = 0; i < all.rows.size(); ++i) y.emplace_back(all.outputs(i));
    for (std::size_t i = 0; i < all.rows.size(); ++i)
        jobs.push_back(
            {{all.gates[i].matrix, all.ups[i].matrix, all.downs[i].matrix, all.kinds[i]}, all.rows[i], y[i].data()});
    MlpScratch scratch;
    kernels::experts(scalar_compute(), input, jobs, scratch);
    return y;
}

// The same on the device, over and over with the same scratch.
class OnDevice {
  public:
    OnDevice(const Experts& all, const std::vector<float>& x) : all_(all) {
        const int rows = static_cast<int>(x.size()) / all.hidden;
        input_ = device_rows(memory_, x, rows, all.hidden);
        for (std::size_t i = 0; i < all.rows.size(); ++i) {
            items_.push_back({memory_.copy(all.gates[i].matrix), memory_.copy(all.ups[i].matrix),
                              memory_.copy(all.downs[i].matrix), all.kinds[i], static_cast<std::int32_t>(ids_.size()),
                              static_cast<std::int32_t>(all.rows[i].size()), memory_.room<float>(all.outputs(i))});
            ids_.insert(ids_.end(), all.rows[i].begin(), all.rows[i].end());
        }
        const std::size_t floats = ids_.size() * static_cast<std::size_t>(all.width);
        launch_.items = items_.data();
        launch_.count = static_cast<int>(items_.size());
        launch_.row_ids = ids_.data();
        launch_.pairs = static_cast<int>(ids_.size());
        launch_.inputs = input_.inputs;
        launch_.intermediate = all.width;
        launch_.gate = memory_.room<float>(floats);
        launch_.up = memory_.room<float>(floats);
        launch_.hidden = room_for_codes(memory_, ids_.size(), all.width);
        launch_.marks = memory_.zeros<std::uint32_t>(items_.size() + 1);
        launch_.fault = input_.fault;
        const std::size_t groups = ids_.size() * static_cast<std::size_t>((all.width + 31) / 32);
        scratch_ = {{launch_.gate, floats * sizeof(float)},
                    {launch_.up, floats * sizeof(float)},
                    {launch_.hidden.codes, groups * 32},
                    {launch_.hidden.scales, groups * sizeof(float)},
                    {launch_.hidden.sums, groups * sizeof(std::int32_t)}};
    }

    Outputs run() {
        for (const auto& [at, bytes] : scratch_) EXPECT_EQ(cudaMemset(at, 0xFF, bytes), cudaSuccess);
        EXPECT_EQ(cuda::experts(launch_, courier, nullptr), cudaSuccess);
        Outputs y;
        for (std::size_t i = 0; i < items_.size(); ++i) y.push_back(from_device(items_[i].y, all_.outputs(i)));
        const std::vector<std::uint32_t> marks = from_device(launch_.marks, items_.size() + 1);
        EXPECT_EQ(marks, std::vector<std::uint32_t>(marks.size())) << "marks must be 0 between launches";
        return y;
    }
    Status status() { return cuda::experts(launch_, courier, nullptr); }
    Fault fault() const { return fault_of(input_); }

    KeepingCourier courier;

  private:
    const Experts& all_;
    DeviceMemory memory_;
    DeviceRows input_;
    std::vector<ExpertItem> items_;
    std::vector<std::int32_t> ids_;
    ExpertsLaunch launch_;
    std::vector<std::pair<void*, std::size_t>> scratch_;  // what a launch must not find of the one before
};

void expect_same(const Outputs& actual, const Outputs& expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
        SCOPED_TRACE("expert " + std::to_string(i));
        expect_same_bits(actual[i], expected[i]);
    }
}

// In every order of threads, and of blocks that run at once.
void expect_same_in_every_order(OnDevice& device, const Outputs& expected) {
    for (const std::size_t blocks : {1, 2, 3, 7})
        for (const cuda_shim::Order order : kOrders) {
            SCOPED_TRACE(std::to_string(blocks) + " blocks in order " + std::to_string(static_cast<int>(order)));
            cuda_shim::set_order(order, 3);
            cuda_shim::set_blocks_at_once(blocks);
            expect_same(device.run(), expected);
        }
}

std::vector<std::int32_t> some_rows(int count, int step = 1) {
    std::vector<std::int32_t> rows;
    for (int i = 0; i < count; ++i) rows.push_back(i * step);
    return rows;
}

constexpr GateKind kKinds[] = {GateKind::silu, GateKind::gelu_tanh, GateKind::clamped_swiglu};

class CudaExpertFormats : public ::testing::TestWithParam<FormatCase> {
  protected:
    void SetUp() override { cuda_shim::reset(); }
};
INSTANTIATE_TEST_SUITE_P(All, CudaExpertFormats, ::testing::ValuesIn(every_format()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(CudaExpertFormats, FewRowsGiveTheScalarBitsInAnyOrder) {
    for (const auto& [hidden, width] : {std::pair(96, 64), std::pair(300, 75), std::pair(33, 270)}) {
        Experts all(hidden, width);
        for (int count : {1, 0, 3, 8}) all.add(GetParam(), GetParam(), GetParam(), kKinds[count % 3], some_rows(count));
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(8 * hidden), 5);
        const Outputs expected = expected_of(all, x);
        OnDevice device(all, x);
        expect_same_in_every_order(device, expected);
        EXPECT_EQ(device.fault(), Fault::none);
    }
}

TEST_P(CudaExpertFormats, FewAndManyRowsTogether) {
    Experts all(150, 100);
    for (int count : {17, 2, 0, 9, 70})
        all.add(GetParam(), GetParam(), GetParam(), kKinds[count % 3], some_rows(count));
    const std::vector<float> x = normal_floats(70 * 150, 7);
    OnDevice device(all, x);
    const Outputs expected = expected_of(all, x);
    expect_same(device.run(), expected);
    cuda_shim::set_order(cuda_shim::Order::random, 5);
    expect_same(device.run(), expected);
    EXPECT_EQ(device.fault(), Fault::none);
}

class CudaExperts : public ::testing::Test {
  protected:
    void SetUp() override { cuda_shim::reset(); }
};

TEST_F(CudaExperts, EveryKindOfGateWithBiases) {
    const FormatCase q8{Format::q8, ScaleType::f16};
    Experts all(64, 48);
    for (const GateKind kind : kKinds) {
        all.add(q8, q8, q8, kind, some_rows(4, 3), true);
        all.add(q8, q8, q8, kind, some_rows(12), true);
    }
    std::vector<float> x = normal_floats(12 * 64, 11, 60.0f);  // far into the gates' tails
    OnDevice device(all, x);
    expect_same(device.run(), expected_of(all, x));
}

TEST_F(CudaExperts, MatricesOfAnExpertMayDiffer) {
    const std::vector<FormatCase> formats = every_format();
    Experts all(70, 90);
    for (std::size_t i = 0; i < formats.size(); ++i) {
        const auto at = [&](std::size_t j) { return formats[(i + j) % formats.size()]; };
        all.add(at(0), at(1), at(3), GateKind::silu, some_rows(i % 2 ? 11 : 2));
        all.add(at(0), at(4), at(6), GateKind::silu, some_rows(i % 2 ? 5 : 9));
        all.add(at(2), at(7), at(0), GateKind::silu, some_rows(1));
    }
    const std::vector<float> x = normal_floats(11 * 70, 13);
    OnDevice device(all, x);
    expect_same_in_every_order(device, expected_of(all, x));
}

TEST_F(CudaExperts, AHiddenRowThatIsNotFiniteIsAFault) {
    const FormatCase q4{Format::q4, ScaleType::f32}, bf16{Format::bf16, ScaleType::none};
    for (int rows : {1, 10})
        for (const FormatCase& format : {q4, bf16}) {
            Experts all(40, 33);
            all.add(format, format, q4, GateKind::silu, some_rows(rows));
            const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * 40), 17, 1e30f);
            OnDevice device(all, x);
            device.run();
            EXPECT_EQ(device.fault(), Fault::quantise);
        }
}

TEST_F(CudaExperts, ACourierThatCannotIsSaid) {
    const FormatCase q8{Format::q8, ScaleType::f16};
    for (int rows : {1, 10}) {
        Experts all(32, 32);
        all.add(q8, q8, q8, GateKind::silu, some_rows(rows));
        OnDevice device(all, normal_floats(static_cast<std::size_t>(rows * 32), 19));
        device.courier.refuses = true;
        EXPECT_EQ(device.status(), cudaErrorMemoryAllocation);
    }
}

TEST_F(CudaExperts, CombinesInRouterOrder) {
    const int rows = 5, top_k = 3, hidden = 200;
    const std::vector<float> outputs = normal_floats(rows * top_k * hidden, 23),
                             weights = normal_floats(rows * top_k, 29);
    DeviceMemory memory;
    float* const there = memory.copy(outputs);
    std::vector<const float*> here_at, there_at;
    for (int pair = 0; pair < rows * top_k; ++pair) {
        here_at.push_back(pair % 4 == 1 ? nullptr : outputs.data() + pair * hidden);
        there_at.push_back(pair % 4 == 1 ? nullptr : there + pair * hidden);
    }
    std::vector<float> expected(rows * hidden);
    kernels::combine(scalar_compute(), here_at, weights.data(), rows, top_k, hidden, expected.data());
    float* const y = memory.room<float>(rows * hidden);
    ASSERT_EQ(cuda::combine(memory.copy(there_at), memory.copy(weights), rows, top_k, hidden, y, nullptr), cudaSuccess);
    expect_same_bits(from_device(y, rows * hidden), expected);
}

}  // namespace
}  // namespace moestro::kernels::cuda
