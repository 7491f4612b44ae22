// What layers do, by single operations of kernels/ops.h on vectors of their own, one after the other; and a world to
// run one layer in.
#pragma once

#include <array>
#include <deque>
#include <numeric>
#include <string>
#include <vector>

#include "engine/runtime.h"
#include "kernels/matrices.h"
#include "kernels/table.h"
#include "kernels/tables.h"
#include "layers/attention.h"
#include "layers/branch.h"

namespace moestro::testing {

using Floats = std::vector<float>;

// Random constants of layers, which only borrow them.
class Weights {
  public:
    explicit Weights(quant::Format format) : format_(format) {}

    const kernels::Matrix* matrix(int rows, int cols, bool bias = false) { return matrix(rows, cols, bias, format_); }
    const kernels::Matrix* matrix(int rows, int cols, bool bias, quant::Format format) {
        const auto scale = quant::is_integer(format) ? quant::ScaleType::f32 : quant::ScaleType::none;
        matrices_.push_back(random_matrix(rows, cols, format, scale, seed_++));
        if (bias) matrices_.back().matrix.bias = floats(rows);
        return &matrices_.back().matrix;
    }
    // Matrices of that many rows below each other, each padded to whole panels; and each by itself.
    struct Stack {
        const kernels::Matrix* all = nullptr;
        std::vector<const PackedMatrix*> each;
    };
    Stack stack(int count, int rows, int cols) {
        Stack made;
        std::vector<const PackedMatrix*>& each = made.each;
        for (int i = 0; i < count; ++i) {
            matrix(rows, cols);
            each.push_back(&matrices_.back());
        }
        const quant::MatrixSpec one = each[0]->matrix.spec;
        PackedMatrix all;
        all.matrix.spec = {count * one.panels() * one.panel_rows(), cols, one.format, one.scale};
        all.bytes = aligned_bytes(all.matrix.spec.bytes());
        all.matrix.data = all.bytes.get();
        for (std::size_t i = 0; i < each.size(); ++i)
            std::copy_n(each[i]->bytes.get(), one.bytes(), all.bytes.get() + i * one.bytes());
        matrices_.push_back(std::move(all));
        made.all = &matrices_.back().matrix;
        return made;
    }
    const float* floats(int n) {
        floats_.push_back(normal_floats(static_cast<std::size_t>(n), seed_++));
        return floats_.back().data();
    }
    layers::Norm rms(int n) { return {.weight = floats(n), .eps = 1e-5f}; }
    layers::Norm layer_norm(int n, bool bias) {
        return {
            .weight = floats(n), .eps = 1e-3f, .kind = layers::Norm::Kind::layer, .bias = bias ? floats(n) : nullptr};
    }

  private:
    quant::Format format_;
    unsigned seed_ = 1;
    std::deque<PackedMatrix> matrices_;
    std::deque<Floats> floats_;
};

namespace plain {

inline int rows_of(const Floats& x, int n) {
    return static_cast<int>(x.size()) / n;
}
inline Floats norm(const layers::Norm& norm, const Floats& x, int n) {
    if (!norm.weight) return x;
    Floats y(x.size());
    if (norm.kind == layers::Norm::Kind::layer)
        kernels::layer_norm(scalar_compute(), x.data(), norm.weight, norm.bias, norm.eps, rows_of(x, n), n, y.data());
    else
        kernels::rms_norm(scalar_compute(), x.data(), norm.weight, norm.eps, rows_of(x, n), n, y.data());
    return y;
}
inline Floats linear(const kernels::Matrix& weight, const Floats& x) {
    return run_linear(scalar_compute(), weight, x, rows_of(x, weight.spec.cols));
}
inline Floats mlp(const kernels::Matrix& gate, const kernels::Matrix& up, const kernels::Matrix& down,
                  kernels::GateKind kind, const Floats& x) {
    Floats h = linear(gate, x);
    const Floats u = linear(up, x);
    kernels::scalar_table().gated[static_cast<std::size_t>(kind)](h.data(), u.data(), h.data(),
                                                                  static_cast<int>(h.size()));
    return linear(down, h);
}
inline float sigmoid(float x) {
    float y = 0;
    kernels::scalar_table().sigmoid(&x, 1, &y);
    return y;
}
// x + what the half makes, wired as the branch says.
inline Floats add(const layers::Branch& branch, Floats x, const Floats& made, int hidden) {
    const Floats y = norm(branch.after, made, hidden);
    for (std::size_t i = 0; i < x.size(); ++i)
        x[i] = branch.residual == 1 ? x[i] + y[i] : std::fma(branch.residual, y[i], x[i]);
    return x;
}
// Columns [first, first + count) of rows of n.
inline Floats columns(const Floats& x, int n, int first, int count) {
    Floats part;
    for (std::size_t at = 0; at < x.size(); at += static_cast<std::size_t>(n))
        part.insert(part.end(), x.begin() + static_cast<std::ptrdiff_t>(at) + first,
                    x.begin() + static_cast<std::ptrdiff_t>(at) + first + count);
    return part;
}
// Rows of a beside rows of b.
inline Floats beside(const Floats& a, int a_width, const Floats& b, int b_width) {
    Floats both;
    for (int row = 0; row < rows_of(a, a_width); ++row) {
        both.insert(both.end(), a.begin() + row * a_width, a.begin() + (row + 1) * a_width);
        both.insert(both.end(), b.begin() + row * b_width, b.begin() + (row + 1) * b_width);
    }
    return both;
}

}  // namespace plain

// A sequence that one layer runs over, and the same one that single operations run over, each in blocks of its own.
class LayerWorld {
  public:
    static constexpr int kMaxRows = 70;

    LayerWorld(const layers::WorkShape& shape, const kernels::KvLayout& layout, int threads,
               const std::string& prefetch = "none")
        : runtime(options(threads, prefetch)), pool(runtime.set_kv(layout, 2)), work(shape, kMaxRows) {
        for (memory::BlockId& block : table_) block = pool.allocate();
        for (memory::BlockId& block : plain_table_) block = pool.allocate();
        const auto halves = shape.rotary_halves.empty() ? std::vector{shape.head_dim / 2} : shape.rotary_halves;
        for (const int half : halves)
            frequencies_.push_back(normal_floats(static_cast<std::size_t>(half), 900 + static_cast<unsigned>(half)));
        for (std::size_t i = 0; i < halves.size(); ++i)
            rotary_.push_back({frequencies_[i].data(), false, 1.0f + 0.25f * static_cast<float>(i)});
    }

    kernels::Compute& compute() { return *runtime.compute(); }

    // The next rows of the sequence.
    void begin(const Floats& x) {
        const auto rows = x.size() / static_cast<std::size_t>(work.shape().hidden);
        positions.resize(rows);
        std::iota(positions.begin(), positions.end(), length_);
        length_ += static_cast<std::int64_t>(rows);
        const std::vector<std::int64_t> begins(rows);
        std::vector<memory::BlockId> blocks;
        query_factors.clear();
        for (const std::int64_t position : positions) {
            blocks.push_back(table_[static_cast<std::size_t>(position / kernels::kKvBlock)]);
            query_factors.push_back(1.0f + 0.1f * static_cast<float>(position));
        }
        work.begin({.batch = {positions, table_, begins},
                    .blocks = blocks,
                    .rotary = rotary_,
                    .query_factors = query_factors.data()});
        std::copy(x.begin(), x.end(), work.arrays().x);
    }
    Floats x() const {
        const float* at = work.arrays().x;
        return {at, at + std::int64_t{work.rows()} * work.shape().hidden};
    }

    // Of the step's rows: every head of x [rows, heads, dim] turned from element `first` on.
    void rotate(const layers::Rotation& rotation, Floats& x, int heads, int dim, int first = 0) const {
        const auto& rotary = rotary_[static_cast<std::size_t>(rotation.table)];
        const int half = static_cast<int>(frequencies_[static_cast<std::size_t>(rotation.table)].size());
        const int rows = static_cast<int>(positions.size());
        Floats cos(static_cast<std::size_t>(rows * half)), sin(cos.size());
        kernels::rope_table(positions.data(), rotary.inv_freq, false, rotary.attention_factor, rows, half, cos.data(),
                            sin.data());
        kernels::rope(scalar_compute(),
                      {.x = x.data(),
                       .rows = rows,
                       .heads = heads,
                       .head_dim = dim,
                       .first = first,
                       .half = half,
                       .pairs = rotation.pairs},
                      cos.data(), sin.data());
    }
    // Stores keys and values and attends, in the blocks of single operations.
    Floats attend(const layers::Attending& over, const Floats& q, const Floats& k, const Floats& v) const {
        const kernels::KvLayout& layout = pool.layout();
        std::vector<std::byte*> blocks, table;
        for (const memory::BlockId block : plain_table_) table.push_back(pool.layer_data(block, over.layer));
        for (const std::int64_t position : positions)
            blocks.push_back(table[static_cast<std::size_t>(position / kernels::kKvBlock)]);
        const int rows = static_cast<int>(positions.size());
        kernels::kv_append(scalar_compute(), layout, k.data(), layout.latent ? nullptr : v.data(), positions.data(),
                           blocks.data(), rows);
        const std::vector<std::int64_t> begins(positions.size());
        Floats y(q.size() / static_cast<std::size_t>(layout.key_dim) * static_cast<std::size_t>(layout.value_dim));
        kernels::attention(scalar_compute(), {.layout = layout,
                                              .heads = work.shape().heads,
                                              .scale = over.scale,
                                              .softcap = over.softcap,
                                              .reach = over.reach,
                                              .sinks = over.sinks,
                                              .q = q.data(),
                                              .positions = positions.data(),
                                              .block_tables = table.data(),
                                              .table_begin = begins.data(),
                                              .rows = rows,
                                              .y = y.data()});
        return y;
    }

    engine::Runtime runtime;
    memory::KvPool& pool;
    layers::Workspace work;
    std::vector<std::int64_t> positions;
    Floats query_factors;

  private:
    static engine::RuntimeOptions options(int threads, const std::string& prefetch) {
        engine::RuntimeOptions made;
        made.threads = threads;
        made.prefetch = prefetch;
        made.host_memory = std::size_t{32} << 20;
        return made;
    }

    std::array<memory::BlockId, 2> table_{}, plain_table_{};
    std::vector<Floats> frequencies_;
    std::vector<layers::StepPlaces::Rotary> rotary_;
    std::int64_t length_ = 0;
};

}  // namespace moestro::testing
