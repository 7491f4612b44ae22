#include <cmath>
#include <numeric>

#include "base/error.h"
#include "kernels/matrices.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using testing::every_compute;
using testing::every_format;
using testing::expect_same_bits;
using testing::FormatCase;
using testing::normal_floats;
using testing::PackedMatrix;
using testing::random_matrix;
using testing::scalar_compute;

struct Expert {
    PackedMatrix gate, up, down;
    std::vector<std::int32_t> rows;
    std::vector<float> y;
};

Expert random_expert(FormatCase gate, FormatCase up, FormatCase down, int hidden, int width, unsigned seed,
                     std::vector<std::int32_t> rows) {
    Expert expert{random_matrix(width, hidden, gate.format, gate.scale, seed),
                  random_matrix(width, hidden, up.format, up.scale, seed + 1),
                  random_matrix(hidden, width, down.format, down.scale, seed + 2),
                  std::move(rows),
                  {}};
    expert.y.resize(expert.rows.size() * static_cast<std::size_t>(hidden));
    return expert;
}

void run(Compute& compute, std::vector<Expert>& all, const std::vector<float>& x, int rows, int hidden) {
    Activations input;
    input.prepare(compute, x.data(), rows, hidden, true);
    std::vector<ExpertJob> jobs;
    for (Expert& expert : all) {
        std::fill(expert.y.begin(), expert.y.end(), -3.0f);
        jobs.push_back({{expert.gate.matrix, expert.up.matrix, expert.down.matrix}, expert.rows, expert.y.data()});
    }
    MlpScratch scratch;
    experts(compute, input, jobs, scratch);
}

std::vector<double> in_double(const Expert& expert, const std::vector<float>& x, int hidden, int width) {
    const auto dot = [](const std::vector<float>& w, int row, int cols, const auto* v) {
        double sum = 0;
        for (int k = 0; k < cols; ++k) sum += static_cast<double>(w[static_cast<std::size_t>(row * cols + k)]) * v[k];
        return sum;
    };
    std::vector<double> out;
    for (std::int32_t row : expert.rows) {
        std::vector<double> h;
        for (int i = 0; i < width; ++i) {
            const double gate = dot(expert.gate.values, i, hidden, x.data() + row * hidden);
            h.push_back(gate / (1 + std::exp(-gate)) * dot(expert.up.values, i, hidden, x.data() + row * hidden));
        }
        for (int n = 0; n < hidden; ++n) out.push_back(dot(expert.down.values, n, width, h.data()));
    }
    return out;
}

class ExpertFormats : public ::testing::TestWithParam<FormatCase> {};
INSTANTIATE_TEST_SUITE_P(All, ExpertFormats, ::testing::ValuesIn(every_format()),
                         [](const auto& info) { return info.param.name(); });

TEST_P(ExpertFormats, EveryTableGivesTheScalarBitsAndTheRightNumbers) {
    for (const auto& [hidden, width] : std::vector<std::pair<int, int>>{{1, 1}, {33, 17}, {100, 300}, {257, 31}}) {
        const FormatCase f = GetParam();
        std::vector<std::int32_t> all(70);
        std::iota(all.begin(), all.end(), 0);
        std::vector<Expert> experts;
        experts.push_back(random_expert(f, f, f, hidden, width, 1, {0, 3, 69}));
        experts.push_back(random_expert(f, f, f, hidden, width, 11, {}));
        experts.push_back(random_expert(f, f, f, hidden, width, 21, all));
        experts.push_back(random_expert(f, f, f, hidden, width, 31, {5}));
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(70 * hidden), 9, 3.0f);
        run(scalar_compute(), experts, x, 70, hidden);
        std::vector<std::vector<float>> expected;
        for (const Expert& expert : experts) expected.push_back(expert.y);
        const double bound = quant::is_integer(f.format) ? 1e-3 : 1e-12;
        if (hidden > 33) {
            EXPECT_LT(testing::nmse(expected[2], in_double(experts[2], x, hidden, width)), bound);
        }
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name + ", hidden " + std::to_string(hidden));
            run(*compute, experts, x, 70, hidden);
            for (std::size_t i = 0; i < experts.size(); ++i) expect_same_bits(experts[i].y, expected[i]);
        }
        // An expert computed alone, on rows of its own, answers alike.
        std::vector<Expert> alone;
        alone.push_back(std::move(experts[3]));
        run(scalar_compute(), alone, x, 70, hidden);
        expect_same_bits(alone[0].y, expected[3]);
    }
}

TEST(Experts, MatricesMayDifferInFormat) {
    const FormatCase q8{quant::Format::q8, quant::ScaleType::f16}, q4{quant::Format::q4, quant::ScaleType::f32};
    const FormatCase bf16{quant::Format::bf16, quant::ScaleType::none};
    std::vector<Expert> experts;
    experts.push_back(random_expert(bf16, q4, q8, 64, 50, 1, {0, 1, 2}));
    experts.push_back(random_expert(q8, bf16, bf16, 64, 50, 5, {1}));
    const std::vector<float> x = normal_floats(3 * 64, 2);
    run(scalar_compute(), experts, x, 3, 64);
    const std::vector<float> first = experts[0].y, second = experts[1].y;
    EXPECT_LT(testing::nmse(second, in_double(experts[1], x, 64, 50)), 1e-3);
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        run(*compute, experts, x, 3, 64);
        expect_same_bits(experts[0].y, first);
        expect_same_bits(experts[1].y, second);
    }
}

TEST(Experts, GateAndUpMayDifferInScaleType) {
    const FormatCase gate{quant::Format::q8, quant::ScaleType::f16}, up{quant::Format::q8, quant::ScaleType::f32};
    std::vector<std::int32_t> all(20);
    std::iota(all.begin(), all.end(), 0);
    std::vector<Expert> experts;
    experts.push_back(random_expert(gate, up, up, 300, 50, 1, all));
    experts.push_back(random_expert(up, gate, gate, 300, 50, 5, {1}));
    const std::vector<float> x = normal_floats(20 * 300, 2);
    run(scalar_compute(), experts, x, 20, 300);
    const std::vector<float> first = experts[0].y, second = experts[1].y;
    EXPECT_LT(testing::nmse(first, in_double(experts[0], x, 300, 50)), 1e-3);
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        run(*compute, experts, x, 20, 300);
        expect_same_bits(experts[0].y, first);
        expect_same_bits(experts[1].y, second);
    }
}

TEST(Experts, BiasesCount) {
    const FormatCase f32{quant::Format::f32, quant::ScaleType::none};
    std::vector<Expert> experts;
    experts.push_back(random_expert(f32, f32, f32, 20, 30, 1, {0}));
    const std::vector<float> x(20, 0.0f), up_bias = normal_floats(30, 4), down_bias = normal_floats(20, 5);
    const std::vector<float> gate_bias(30, 0.0f);  // silu(0) = 0: only the down bias is left
    experts[0].gate.matrix.bias = gate_bias.data();
    experts[0].up.matrix.bias = up_bias.data();
    experts[0].down.matrix.bias = down_bias.data();
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        run(*compute, experts, x, 1, 20);
        expect_same_bits(experts[0].y, down_bias);
    }
}

TEST(Experts, HiddenOverflowIsRefused) {
    const FormatCase q8{quant::Format::q8, quant::ScaleType::f32};
    std::vector<Expert> experts;
    experts.push_back(random_expert(q8, q8, q8, 32, 32, 1, {0}));
    const std::vector<float> x(32, 1e30f);
    EXPECT_THROW(run(scalar_compute(), experts, x, 1, 32), Error);
}

TEST(Combine, AddsInRouterOrderWithFusedMultiplyAdd) {
    for (int hidden : {1, 16, 33, 1025, 3000}) {
        const int rows = 3, top_k = 4;
        const std::vector<float> data = normal_floats(static_cast<std::size_t>(rows * top_k * hidden), 3);
        const std::vector<float> weights = normal_floats(rows * top_k, 4);
        std::vector<const float*> outputs;
        for (int pair = 0; pair < rows * top_k; ++pair)
            outputs.push_back(pair == 5 ? nullptr : data.data() + pair * hidden);
        std::vector<float> expected(static_cast<std::size_t>(rows * hidden));
        for (int row = 0; row < rows; ++row)
            for (int j = 0; j < top_k; ++j)
                for (int i = 0; i < hidden && outputs[static_cast<std::size_t>(row * top_k + j)]; ++i) {
                    float& y = expected[static_cast<std::size_t>(row * hidden + i)];
                    y = std::fma(weights[static_cast<std::size_t>(row * top_k + j)],
                                 outputs[static_cast<std::size_t>(row * top_k + j)][i], y);
                }
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name);
            std::vector<float> y(expected.size(), 5.0f);
            combine(*compute, outputs, weights.data(), rows, top_k, hidden, y.data());
            expect_same_bits(y, expected);
        }
    }
}

}  // namespace
}  // namespace moestro::kernels
