// The small decoder's step by single operations of kernels/ops.h, on arrays of their own.
#pragma once

#include "layers/small_decoder.h"

namespace moestro::testing {

class Reference {
  public:
    explicit Reference(SmallDecoder& model) : model_(model), compute_(model.compute()) {
        for (memory::BlockId& block : table_) block = model.pool.allocate();
    }

    std::vector<float> step(std::vector<float> x, int rows) {
        rows_ = rows;
        positions_.resize(static_cast<std::size_t>(rows));
        std::iota(positions_.begin(), positions_.end(), length_);
        attention(model_.attention[0], x);
        experts(x);
        attention(model_.attention[1], x);
        mlp(x);
        length_ += rows;
        const std::vector<float> normed = norm(model_.head.norm, x, rows, D::kHidden);
        std::vector<float> logits(floats(D::kVocab));
        int first = 0;
        for (const kernels::Matrix* slice : model_.head.slices) {
            linear(*slice, normed, logits.data() + first, D::kVocab);
            first += slice->spec.rows;
        }
        return logits;
    }

  private:
    using D = SmallDecoder;

    std::size_t floats(int width) const { return static_cast<std::size_t>(rows_ * width); }

    std::vector<float> norm(const layers::Norm& norm, const std::vector<float>& x, int rows, int n) {
        std::vector<float> y(x.size());
        kernels::rms_norm(compute_, x.data(), norm.weight, norm.eps, rows, n, y.data());
        return y;
    }

    void linear(const kernels::Matrix& weight, const std::vector<float>& x, float* y, std::int64_t ldy) {
        kernels::Activations activations;
        activations.prepare(compute_, x.data(), rows_, weight.spec.cols, true);
        const kernels::LinearJob job{weight, y, ldy};
        kernels::linear(compute_, activations, {&job, 1});
    }
    std::vector<float> linear(const kernels::Matrix& weight, const std::vector<float>& x) {
        std::vector<float> y(floats(weight.spec.rows));
        linear(weight, x, y.data(), weight.spec.rows);
        return y;
    }

    static void add(std::vector<float>& x, const std::vector<float>& y) {
        for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
    }

    void attention(const layers::Attention& layer, std::vector<float>& x) {
        const std::vector<float> normed = norm(layer.branch.before, x, rows_, D::kHidden);
        std::vector<float> q = linear(*layer.q, normed), k = linear(*layer.k, normed), v = linear(*layer.v, normed);
        if (layer.q_norm.weight) q = norm(layer.q_norm, q, rows_ * D::kHeads, D::kHeadDim);
        if (layer.k_norm.weight) k = norm(layer.k_norm, k, rows_ * D::kKvHeads, D::kHeadDim);
        std::vector<float> cos(floats(D::kHeadDim / 2)), sin(cos.size());
        kernels::rope_table(positions_.data(), model_.frequencies.data(), false, 1.5f, rows_, D::kHeadDim / 2,
                            cos.data(), sin.data());
        if (layer.rotation) {
            const int half = D::kHeadDim / 2;
            const auto rotate = [&](std::vector<float>& x, int heads) {
                kernels::rope(compute_,
                              {.x = x.data(), .rows = rows_, .heads = heads, .head_dim = D::kHeadDim, .half = half},
                              cos.data(), sin.data());
            };
            rotate(q, D::kHeads);
            rotate(k, D::kKvHeads);
        }
        add(x, linear(*layer.o, attend(layer, q, k, v)));
    }

    std::vector<float> attend(const layers::Attention& layer, const std::vector<float>& q, const std::vector<float>& k,
                              const std::vector<float>& v) {
        std::vector<std::byte*> blocks, table;
        for (const memory::BlockId block : table_) table.push_back(model_.pool.layer_data(block, layer.over.layer));
        for (const std::int64_t position : positions_)
            blocks.push_back(table[static_cast<std::size_t>(position / kernels::kKvBlock)]);
        kernels::kv_append(compute_, model_.pool.layout(), k.data(), v.data(), positions_.data(), blocks.data(), rows_);
        const std::vector<std::int64_t> begins(positions_.size());
        std::vector<float> y(q.size());
        kernels::attention(compute_, {.layout = model_.pool.layout(),
                                      .heads = D::kHeads,
                                      .scale = layer.over.scale,
                                      .reach = layer.over.reach,
                                      .q = q.data(),
                                      .positions = positions_.data(),
                                      .block_tables = table.data(),
                                      .table_begin = begins.data(),
                                      .rows = rows_,
                                      .y = y.data()});
        return y;
    }

    void experts(std::vector<float>& x) {
        Call call{model_.moe.layer, rows_, D::kTopK, norm(model_.moe.branch.before, x, rows_, D::kHidden), {}, {}};
        const std::vector<float> logits = linear(*model_.moe.router, call.x);
        call.ids.resize(floats(D::kTopK));
        call.weights.resize(floats(D::kTopK));
        kernels::route(compute_, {.top_k = D::kTopK, .normalise = true}, logits.data(), rows_, D::kExperts,
                       call.ids.data(), call.weights.data());
        add(x, model_.toy.expected(compute_, call));
    }

    void mlp(std::vector<float>& x) {
        const layers::Mlp& layer = model_.mlp;
        const std::vector<float> normed = norm(model_.mlp.branch.before, x, rows_, D::kHidden);
        std::vector<float> gate = linear(*layer.gate, normed);
        const std::vector<float> up = linear(*layer.up, normed);
        compute_.table().gated[0](gate.data(), up.data(), gate.data(), static_cast<int>(gate.size()));
        add(x, linear(*layer.down, gate));
    }

    SmallDecoder& model_;
    kernels::Compute& compute_;
    std::array<memory::BlockId, D::kBlocks> table_{};
    std::vector<std::int64_t> positions_;
    int rows_ = 0, length_ = 0;
};

}  // namespace moestro::testing
