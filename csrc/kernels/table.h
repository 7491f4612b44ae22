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

    // Inputs: floats for f32 and bf16, codes for q8 and q4. Row r of the call is row row_ids[r] of them (r when null).
    const float* x = nullptr;            // [*, cols]
    const std::int8_t* codes = nullptr;  // [*, groups * 32]
    const float* scales = nullptr;       // [*, groups]
    const std::int32_t* sums = nullptr;  // [*, groups]
    std::int32_t groups = 0;
    const std::int32_t* row_ids = nullptr;
    int rows = 0;

    float* y = nullptr;
    std::int64_t ldy = 0;
};

// The unnormalised attention state of one query head: 16 floats of which [0] is the maximum m and [1] the sum l, then
// the output o padded with zeros to whole vectors.
constexpr int kStateHeader = 16;
static constexpr int state_floats(int head_dim) {
    return kStateHeader + (head_dim + 15) / 16 * 16;
}

// The query heads of one KV head over the visible keys of one segment.
struct SegmentCall {
    const std::byte* const* blocks = nullptr;  // the sequence's table: entry b holds positions 64 b .. 64 b + 63
    std::int64_t first = 0, last = 0;          // visible positions, both inclusive, inside one segment
    std::size_t k_offset = 0, v_offset = 0;    // bytes from a block's start to this head's K and V
    const float* q = nullptr;                  // [heads, head_dim]
    int heads = 0, head_dim = 0;
    float scale = 0;
    float* states = nullptr;  // [heads] states, written whole
};

struct Table {
    // By quant::Format.
    void (*panel[4])(const PanelCall& call);

    // One row of activations to int8 codes (padded with zeros), scales and sums of codes per group of 32. Returns false
    // when an element is not finite.
    bool (*quantise)(const float* x, int cols, std::int8_t* codes, float* scales, std::int32_t* sums);
    // h = silu(gate) * up; h may equal either.
    void (*silu_mul)(const float* gate, const float* up, float* h, int n);
    // y = fma(weight, x, y).
    void (*axpy)(float weight, const float* x, float* y, int n);
    // x = x + y.
    void (*add)(float* x, const float* y, int n);
    // The striped sum of squares.
    float (*sum_of_squares)(const float* x, int n);
    // y = (x * r) * w; y may equal x.
    void (*scale_by)(const float* x, float r, const float* w, float* y, int n);
    // p = softmax(logits). Returns false when a logit is not finite.
    bool (*softmax)(const float* logits, int n, float* p);
    // Half-split rotation of one head in place; x holds 2 * half floats.
    void (*rotate)(float* x, const float* cos, const float* sin, int half);

    // By KvType: rounds n floats to the type.
    void (*narrow[3])(const float* x, std::byte* y, int n);
    // By KvType: folds a segment's visible keys into fresh states.
    void (*attend[3])(const SegmentCall& call);
    // total = fold of total and the state that follows it.
    void (*merge)(float* total, const float* state, int head_dim);
    // y = o / l.
    void (*finish)(const float* state, float* y, int head_dim);
};

const Table& scalar_table();
const Table& avx2_table();
const Table& avx512_table();

}  // namespace moestro::kernels
