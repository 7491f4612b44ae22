// What one instruction set offers: plain functions over raw pointers, no threads, no allocation, no errors thrown. All
// of them expect the default MXCSR. The bodies are one text (cpu/body/*.inl) compiled once per instruction set over a
// small vocabulary of 16-lane vectors, so every table returns the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv.h"
#include "quant/format.h"

namespace moestro::kernels {

// One panel of a packed matrix times some rows: y[r, lane] = dot + bias, r in [0, rows), lane in [0, lanes).
struct PanelCall {
    const std::byte* panel = nullptr;
    std::int32_t cols = 0;  // K, unpadded
    quant::ScaleType scale = quant::ScaleType::none;
    const float* bias = nullptr;  // of the panel's lanes, or null
    int lanes = 0;                // outputs of this panel that exist, 1..panel rows

    // Inputs: floats for f32 and bf16 (pairs where the table rounds), codes for q8 and q4. Row r of the call is row
    // row_ids[r] of them (r when null).
    const float* x = nullptr;              // [*, cols]
    const std::uint32_t* pairs = nullptr;  // [*, groups * 16]
    const std::int8_t* codes = nullptr;    // [*, groups * 32]
    const float* scales = nullptr;         // [*, groups]
    const std::int32_t* sums = nullptr;    // [*, groups]
    std::int32_t groups = 0;
    const std::int32_t* row_ids = nullptr;
    int rows = 0;

    float* y = nullptr;
    std::int64_t ldy = 0;
};

// Queries that share a KV head: `rows` rows at consecutive positions of one sequence, `group` heads each. Query t is
// head t % group of row t / group.
struct QueryTile {
    int rows = 1, group = 1;
    int key_dim = 0, value_dim = 0;
};
static constexpr int round_to_lanes(int n) {
    return (n + 15) / 16 * 16;
}
// Floats of a tile's unnormalised states: maxima m and sums l, each padded to whole vectors, then the outputs o
// [queries][value_dim padded].
static constexpr std::size_t state_floats(const QueryTile& tile) {
    const int queries = tile.rows * tile.group;
    return 2 * static_cast<std::size_t>(round_to_lanes(queries)) +
           static_cast<std::size_t>(queries) * static_cast<std::size_t>(round_to_lanes(tile.value_dim));
}
// Floats that folding a segment needs besides: scores, three numbers per query, one block's keys and values widened.
static constexpr std::size_t fold_floats(const QueryTile& tile) {
    const int queries = tile.rows * tile.group;
    return static_cast<std::size_t>(queries) * kKvBlock + 2 * static_cast<std::size_t>(round_to_lanes(queries)) +
           static_cast<std::size_t>(round_to_lanes(tile.key_dim) + round_to_lanes(tile.value_dim)) * kKvBlock;
}

// A tile over the keys it sees of one segment. Every row must see some of it.
struct SegmentCall {
    QueryTile tile;
    std::int64_t position = 0;  // of the first row
    Reach reach;
    std::int64_t segment = 0;                  // positions 512 * segment .. 512 * segment + 511
    const std::byte* const* blocks = nullptr;  // the sequence's table: entry b holds positions 64 b .. 64 b + 63
    std::size_t k_offset = 0, v_offset = 0;    // bytes from a block's start to this head's K and V
    bool latent = false;                       // V is the first value_dim elements of K, which lies as V does
    const float* q = nullptr;                  // head h of row r at r * q_stride + h * key_dim
    std::int64_t q_stride = 0;
    float scale = 0;
    float softcap = 0;         // c: a score s becomes c * tanh(s / c); 0: it stays
    float* states = nullptr;   // written whole
    float* scratch = nullptr;  // fold_floats(tile)
};

struct Table {
    // By quant::Format.
    void (*panel[4])(const PanelCall& call);
    // The same for two panels at once, of equal format, scale type and columns and over the same rows. It is faster for
    // two_from to two_to rows; null where it never is.
    void (*two_panels[4])(const PanelCall& one, const PanelCall& other);
    int two_from, two_to;

    // One row of activations to int8 codes (padded with zeros), scales and sums of codes per group of 32. Returns false
    // when an element is not finite.
    bool (*quantise)(const float* x, int cols, std::int8_t* codes, float* scales, std::int32_t* sums);
    // One row of activations to bf16, two to a word and padded with zeros to groups of 32: what panel[bf16] then reads
    // instead of floats. Returns false when a rounded element is not finite. Null in every table of the exact results.
    bool (*round_pairs)(const float* x, int cols, std::uint32_t* pairs);
    // By GateKind: h = act(gate) * up, or what stands for it; h may equal either.
    void (*gated[3])(const float* gate, const float* up, float* h, int n);
    // y = sigmoid(x); y may equal x.
    void (*sigmoid)(const float* x, int n, float* y);
    // x = x * sigmoid(gate).
    void (*sigmoid_mul)(float* x, const float* gate, int n);
    // x = x within [-bound, bound].
    void (*clamp)(float* x, float bound, int n);
    // x = cap * tanh(x / cap).
    void (*softcap)(float* x, float cap, int n);
    // y = fma(weight, x, y).
    void (*axpy)(float weight, const float* x, float* y, int n);
    // x = x + y.
    void (*add)(float* x, const float* y, int n);
    // The striped sum of squares.
    float (*sum_of_squares)(const float* x, int n);
    // The striped sum.
    float (*sum)(const float* x, int n);
    // y = x - mean; y may equal x. Returns the striped sum of its squares.
    float (*centre)(const float* x, float mean, float* y, int n);
    // y = (x * r) * w; y may equal x.
    void (*scale_by)(const float* x, float r, const float* w, float* y, int n);
    // p = softmax(logits). Returns false when a logit is not finite.
    bool (*softmax)(const float* logits, int n, float* p);
    // By RopePairs: rotation of one head in place; x holds 2 * half floats.
    void (*rotate[2])(float* x, const float* cos, const float* sin, int half);

    // By KvType: rounds n floats to the type.
    void (*narrow[3])(const float* x, std::byte* y, int n);
    // By KvType: folds a segment's visible keys into fresh states.
    void (*attend[3])(const SegmentCall& call);
    // total = fold of total and the states that follow it.
    void (*merge)(float* total, const float* states, const QueryTile& tile);
    // y = o / l; head h of row r goes to r * y_stride + h * value_dim.
    void (*finish)(const float* total, const QueryTile& tile, float* y, std::int64_t y_stride);
};

const Table& scalar_table();
const Table& avx2_table();
const Table& avx512_table();
const Table& avx512bf16_table();  // avx512_table() with the product of fast math; its results are its own

}  // namespace moestro::kernels
