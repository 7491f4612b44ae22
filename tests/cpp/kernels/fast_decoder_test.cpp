// How far fast math moves the logits of a small MoE decoder, all of whose linears are bf16, from the exact ones.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/matrices.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using testing::normal_floats;
using testing::PackedMatrix;

constexpr int kHidden = 96, kHeads = 4, kKvHeads = 2, kHeadDim = 24, kExperts = 8, kTopK = 2, kWidth = 56;
constexpr int kLayers = 4, kVocab = 211, kTokens = 40;

struct ExpertWeights {
    PackedMatrix gate, up, down;
};
struct Layer {
    PackedMatrix q, k, v, o, router;
    std::vector<ExpertWeights> experts;
};

// Weights that keep the size of what goes through them.
PackedMatrix matrix(int rows, int cols, unsigned& seed, quant::Format format = quant::Format::bf16) {
    const auto count = static_cast<std::size_t>(rows * cols);
    return testing::pack_matrix(normal_floats(count, ++seed, 1.0f / std::sqrt(static_cast<float>(cols))), rows, cols,
                                format, quant::ScaleType::none);
}

struct Decoder {
    std::vector<Layer> layers;
    PackedMatrix head;
    std::vector<float> embedded, ones = std::vector<float>(kHidden, 1.0f);

    explicit Decoder(unsigned seed) {
        embedded = normal_floats(kTokens * kHidden, seed);
        for (int i = 0; i < kLayers; ++i) {
            const int queries = kHeads * kHeadDim, keys = kKvHeads * kHeadDim;
            Layer layer{matrix(queries, kHidden, seed),
                        matrix(keys, kHidden, seed),
                        matrix(keys, kHidden, seed),
                        matrix(kHidden, queries, seed),
                        matrix(kExperts, kHidden, seed, quant::Format::f32),
                        {}};
            for (int e = 0; e < kExperts; ++e)
                layer.experts.push_back(
                    {matrix(kWidth, kHidden, seed), matrix(kWidth, kHidden, seed), matrix(kHidden, kWidth, seed)});
            layers.push_back(std::move(layer));
        }
        head = matrix(kVocab, kHidden, seed);
    }

    std::vector<float> logits(Compute& compute) const {
        std::vector<float> x = embedded;
        for (const Layer& layer : layers) {
            attend(compute, layer, x);
            mix(compute, layer, x);
        }
        return linear_of(compute, head, normed(compute, x));
    }

  private:
    static std::vector<float> linear_of(Compute& compute, const PackedMatrix& weight, const std::vector<float>& x) {
        Activations input;
        input.prepare(compute, x.data(), kTokens, weight.matrix.spec.cols, false);
        std::vector<float> y(static_cast<std::size_t>(kTokens * weight.matrix.spec.rows));
        const LinearJob job{weight.matrix, y.data(), weight.matrix.spec.rows};
        linear(compute, input, {&job, 1});
        return y;
    }
    std::vector<float> normed(Compute& compute, const std::vector<float>& x) const {
        std::vector<float> y(x.size());
        rms_norm(compute, x.data(), ones.data(), 1e-6f, kTokens, kHidden, y.data());
        return y;
    }
    void attend(Compute& compute, const Layer& layer, std::vector<float>& x) const {
        const std::vector<float> in = normed(compute, x);
        const std::vector<float> q = linear_of(compute, layer.q, in), k = linear_of(compute, layer.k, in),
                                 v = linear_of(compute, layer.v, in);
        std::vector<std::int64_t> positions(kTokens), begin(kTokens, 0);
        std::iota(positions.begin(), positions.end(), 0);
        AttentionJob job;
        job.layout = {KvType::f32, kKvHeads, kHeadDim, kHeadDim};
        const testing::AlignedBytes block = testing::aligned_bytes(job.layout.block_bytes());
        const std::vector<std::byte*> blocks(kTokens, block.get());
        kv_append(compute, job.layout, k.data(), v.data(), positions.data(), blocks.data(), kTokens);
        const std::byte* table = block.get();
        std::vector<float> y(q.size());
        job.heads = kHeads;
        job.scale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));
        job.q = q.data();
        job.positions = positions.data();
        job.block_tables = &table;
        job.table_begin = begin.data();
        job.rows = kTokens;
        job.y = y.data();
        attention(compute, job);
        const std::vector<float> out = linear_of(compute, layer.o, y);
        add(compute, x.data(), out.data(), static_cast<std::int64_t>(x.size()));
    }
    void mix(Compute& compute, const Layer& layer, std::vector<float>& x) const {
        const std::vector<float> in = normed(compute, x), scores = linear_of(compute, layer.router, in);
        std::vector<std::int32_t> ids(kTokens * kTopK);
        std::vector<float> weights(ids.size()), outputs(ids.size() * kHidden), y(x.size());
        route(compute, {.top_k = kTopK, .normalise = true}, scores.data(), kTokens, kExperts, ids.data(),
              weights.data());
        std::vector<const float*> places(ids.size());
        Activations input;
        input.prepare(compute, in.data(), kTokens, kHidden, false);
        MlpScratch scratch;
        float* next = outputs.data();
        for (int e = 0; e < kExperts; ++e) {
            std::vector<std::int32_t> rows;
            for (std::size_t pair = 0; pair < ids.size(); ++pair) {
                if (ids[pair] != e) continue;
                places[pair] = next + rows.size() * kHidden;
                rows.push_back(static_cast<std::int32_t>(pair / kTopK));
            }
            const ExpertWeights& expert = layer.experts[static_cast<std::size_t>(e)];
            const ExpertJob job{{expert.gate.matrix, expert.up.matrix, expert.down.matrix}, rows, next};
            experts(compute, input, {&job, 1}, scratch);
            next += rows.size() * kHidden;
        }
        combine(compute, places, weights.data(), kTokens, kTopK, kHidden, y.data());
        add(compute, x.data(), y.data(), static_cast<std::int64_t>(x.size()));
    }
};

// Squared error over squared reference of every row, sorted.
std::vector<double> row_errors(const std::vector<float>& actual, const std::vector<float>& reference) {
    std::vector<double> errors;
    for (std::size_t begin = 0; begin < actual.size(); begin += kVocab) {
        const auto row = reference.begin() + static_cast<std::ptrdiff_t>(begin);
        errors.push_back(
            testing::nmse(std::span(actual).subspan(begin, kVocab), std::vector<double>(row, row + kVocab)));
    }
    std::sort(errors.begin(), errors.end());
    return errors;
}

// What docs/numerics.md states. The median: a row whose router nearly ties may take another expert.
TEST(FastDecoder, LogitsAreAsCloseToExactAsStated) {
    for (unsigned seed : {1u, 1001u, 2001u}) {
        const Decoder decoder(seed);
        const std::vector<float> exact = decoder.logits(testing::scalar_compute());
        for (const auto& [name, choice] : testing::fast_tables()) {
            Compute compute(2, choice);
            const double median = row_errors(decoder.logits(compute), exact)[kTokens / 2];
            EXPECT_LT(median, 5e-5) << name << ", seed " << seed;
            EXPECT_GT(median, 1e-7) << "activations were not rounded: this is not fast math";
            RecordProperty(name + "_seed_" + std::to_string(seed), std::to_string(median * 1e6) + "e-6");
        }
    }
}

}  // namespace
}  // namespace moestro::kernels
