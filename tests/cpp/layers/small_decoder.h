// A decoder of two layers over a toy model's experts: attention and experts, attention and a dense MLP, a head. Runs a
// sequence through the layers, and the same one through single operations.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <numeric>
#include <vector>

#include "engine/runtime.h"
#include "kernels/matrices.h"
#include "layers/attention.h"
#include "layers/feed_forward.h"
#include "layers/head.h"
#include "support/toy_model.h"

namespace moestro::testing {

class SmallDecoder {
  public:
    static constexpr int kHidden = 48, kHeads = 4, kKvHeads = 2, kHeadDim = 16, kWidth = 40, kVocab = 70;
    static constexpr int kExperts = 6, kTopK = 3, kMaxRows = 33, kBlocks = 2;
    static constexpr float kEps = 1e-5f, kScale = 0.25f;
    static constexpr std::size_t kArraysThere = 640 << 10;  // what a device keeps beside experts, at most
    explicit SmallDecoder(quant::Format format, int threads = 1, engine::RuntimeOptions options = {})
        : toy({.format = format, .layers = 1, .experts = kExperts, .hidden = kHidden, .intermediate = kWidth}),
          runtime(complete(std::move(options), threads)),
          pool(runtime.set_kv({kernels::KvType::bf16, kKvHeads, kHeadDim, kHeadDim}, 2)),
          work({kHidden, kHeads, kKvHeads, kHeadDim, kExperts, kTopK}, kMaxRows, runtime.accelerator()) {
        if (runtime.accelerator())  // which takes KV blocks itself
            runtime.device_ledger()->take("arrays", kArraysThere - kBlocks * pool.block_bytes());
        runtime.set_experts(toy.packed(runtime.open_file(toy.packed_path())));
        for (memory::BlockId& block : table) block = pool.allocate();
        for (int layer = 0; layer < 2; ++layer) attention[static_cast<std::size_t>(layer)] = make(layer);
        moe = {.layer = toy.layer_number(0),
               .branch = {.before = norm(kHidden), .after = {}},
               .router = matrix(kExperts, kHidden, quant::Format::f32),
               .rule = {.top_k = kTopK, .normalise = true}};
        mlp = {1,
               {.before = norm(kHidden), .after = {}},
               matrix(kWidth, kHidden),
               matrix(kWidth, kHidden),
               matrix(kHidden, kWidth)};
        head = {norm(kHidden), {matrix(32, kHidden), matrix(kVocab - 32, kHidden)}};
        frequencies = normal_floats(kHeadDim / 2, 3);
    }

    // The next `rows` positions of the sequence, embedded as x [rows, hidden]. Logits of `chosen` go to `logits`.
    void step(const float* x, int rows, std::span<const std::int64_t> chosen, float* logits) {
        begin(rows);
        runtime.begin_step(rows, {});
        std::copy_n(x, rows * kHidden, work.host().x);
        work.put_x();
        attention[0].run(compute(), pool, work);
        moe.submit(runtime, work);
        moe.wait(runtime, work);
        attention[1].run(compute(), pool, work);
        mlp.run(compute(), work);
        head.run(compute(), work, chosen, logits);
        runtime.end_step({});
        length += rows;
    }

    void begin(int rows) {
        for (int row = 0; row < rows; ++row) {
            positions[static_cast<std::size_t>(row)] = length + row;
            blocks[static_cast<std::size_t>(row)] = table[static_cast<std::size_t>((length + row) / kernels::kKvBlock)];
        }
        const auto count = static_cast<std::size_t>(rows);
        const layers::StepPlaces::Rotary rotary{frequencies.data(), false, 1.5f};
        work.begin({.batch = {{positions.data(), count}, table, {begins.data(), count}},
                    .blocks = {blocks.data(), count},
                    .rotary = {&rotary, 1}});
    }

    kernels::Compute& compute() { return *runtime.compute(); }

    ToyModel toy;
    engine::Runtime runtime;
    memory::KvPool& pool;
    layers::Workspace work;
    std::array<layers::Attention, 2> attention;
    layers::Moe moe;
    layers::Mlp mlp;
    layers::Head head;
    std::vector<float> frequencies;
    std::array<memory::BlockId, kBlocks> table{};
    int length = 0;

  private:
    static engine::RuntimeOptions complete(engine::RuntimeOptions made, int threads) {
        made.threads = threads;
        made.host_memory = std::size_t{32} << 20;
        return made;
    }

    const kernels::Matrix* matrix(int rows, int cols, quant::Format format) {
        const auto scale = quant::is_integer(format) ? quant::ScaleType::f32 : quant::ScaleType::none;
        matrices_.push_back(random_matrix(rows, cols, format, scale, seed_++));
        kernels::Matrix& made = matrices_.back().matrix;
        made.data = reached(made.data, made.spec.bytes());
        return &made;
    }
    const kernels::Matrix* matrix(int rows, int cols) { return matrix(rows, cols, toy.shape().format); }

    layers::Norm norm(int n) {
        norms_.push_back(normal_floats(static_cast<std::size_t>(n), seed_++));
        return {reached(norms_.back()), kEps};
    }

    // Where layers reach these bytes.
    const std::byte* reached(const std::byte* data, std::size_t bytes) {
        kernels::Accelerator* const there = runtime.accelerator().get();
        if (!there) return data;
        copies_.push_back(there->allocate(bytes));
        there->put(copies_.back().get(), data, bytes);
        return copies_.back().get();
    }
    const float* reached(const std::vector<float>& values) {
        const auto bytes = std::as_bytes(std::span(values));
        return reinterpret_cast<const float*>(reached(bytes.data(), bytes.size()));
    }

    layers::Attention make(int layer) {
        layers::Attention made{.branch = {.before = norm(kHidden), .after = {}},
                               .over = {.layer = layer, .scale = kScale, .reach = {.window = layer == 0 ? 0 : 9}},
                               .q = matrix(kHeads * kHeadDim, kHidden),
                               .k = matrix(kKvHeads * kHeadDim, kHidden),
                               .v = matrix(kKvHeads * kHeadDim, kHidden),
                               .q_norm = {},
                               .k_norm = {},
                               .rotation = {},
                               .o = matrix(kHidden, kHeads * kHeadDim)};
        norms_.push_back(normal_floats(kHidden, seed_++));
        matrices_.back().matrix.bias = reached(norms_.back());  // that of o
        if (layer == 0) made.rotation = layers::Rotation{};
        if (layer == 0) made.q_norm = norm(kHeadDim);
        if (layer == 0) made.k_norm = norm(kHeadDim);
        return made;
    }

    std::deque<PackedMatrix> matrices_;  // layers point into it
    std::vector<std::vector<float>> norms_;
    std::vector<std::shared_ptr<std::byte>> copies_;
    unsigned seed_ = 1;
    std::array<std::int64_t, kMaxRows> positions{}, begins{};
    std::array<memory::BlockId, kMaxRows> blocks{};
};

}  // namespace moestro::testing
