// The operations of a decoder step on the CPU, threaded. All tensors are dense row-major float32 unless said; outputs
// never alias inputs unless said. Results are defined to the bit by docs/numerics.md and do not depend on threads, on
// the instruction set (fast math aside), or on how many rows a call has.
//
// Failure: Error(numeric) names the operation when an input (or an intermediate it must quantise or normalise) is not
// finite; outputs are then unspecified. Sizes are the caller's promise (checked by MOESTRO_CHECK).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/compute.h"
#include "kernels/kv.h"
#include "quant/format.h"

namespace moestro::kernels {

// One packed weight matrix [N, K], borrowed; data is 64-byte aligned and holds spec.bytes() bytes.
struct Matrix {
    const std::byte* data = nullptr;
    quant::MatrixSpec spec;
    const float* bias = nullptr;  // [N] or null
};

// Rows prepared for linears: float32 rows, their int8 codes where an integer format will read them, and in fast math
// their roundings to bf16. Prepared once per layer input and shared by every matrix that reads it.
class Activations {
  public:
    // x: [rows, cols], borrowed until the last use. Quantises when `integer`. Rounds in fast math, whoever will read
    // it: that costs little beside any product. Keeps its buffers between calls.
    void prepare(Compute& compute, const float* x, int rows, int cols, bool integer);
    // The same in two parts, for work that is under way on the pool already: take(), then prepare_row() of every row.
    void take(const Table& table, const float* x, int rows, int cols, bool integer);
    void prepare_row(const Table& table, std::int64_t row);

    const float* x = nullptr;
    int rows = 0, cols = 0, groups = 0;
    bool has_codes = false, has_pairs = false;
    std::vector<std::int8_t> codes;    // [rows, groups * 32]
    std::vector<float> scales;         // [rows, groups]
    std::vector<std::int32_t> sums;    // [rows, groups]: sums of codes (kernels that offset weight codes need them)
    std::vector<std::uint32_t> pairs;  // [rows, groups * 16]: elements 2 i (low half) and 2 i + 1 of a row as bf16

    // Bytes prepare() holds after calls of up to so many rows and columns, with a Compute of that math.
    static std::size_t bytes(std::int64_t rows, std::int64_t cols, bool integer, Math math);

  private:
    void quantise_row(const Table& table, std::int64_t row);
    void round_row(const Table& table, std::int64_t row);
};

// y[rows, N] = x W^T + bias. All matrices in one call read the same activations and run in one parallel region.
struct LinearJob {
    Matrix weight;
    float* y = nullptr;  // row stride ldy
    std::int64_t ldy = 0;
};
void linear(Compute& compute, const Activations& x, std::span<const LinearJob> jobs);

// Gated MLPs, any number of experts in one call and one dispatch (a dense MLP is one expert over all rows).
struct Mlp {
    Matrix gate, up, down;  // [I, H], [I, H], [H, I]
};
struct ExpertJob {
    Mlp mlp;
    std::span<const std::int32_t> rows;  // rows of x this expert computes, ascending
    float* y = nullptr;                  // [rows.size(), H], this expert's own output
};
struct MlpScratch {  // reused between calls; grows to the largest call
    std::vector<float> hidden;
    Activations hidden_act;
    static std::size_t bytes(std::int64_t pairs, std::int64_t intermediate, bool integer, Math math);
};
void experts(Compute& compute, const Activations& x, std::span<const ExpertJob> jobs, MlpScratch& scratch);

// y[t] = fma over j in order of weights[t, j] * outputs[t, j][0..H), docs/numerics.md "MoE combine".
// outputs: [rows * top_k] pointers to H floats each; a null pointer contributes nothing.
void combine(Compute& compute, std::span<const float* const> outputs, const float* weights, int rows, int top_k,
             int hidden, float* y);

// y = rms_norm(x) * w over the last dimension; x, y [rows, n] (y may equal x). Per-head norms pass rows * heads.
void rms_norm(Compute& compute, const float* x, const float* weight, float eps, int rows, int n, float* y);

// x += y elementwise.
void add(Compute& compute, float* x, const float* y, std::int64_t count);

// Softmax top-k routing of logits [rows, experts] -> ids, weights [rows, top_k].
struct RouterScratch {  // reused between calls; grows to the largest call
    std::vector<float> probabilities;
    static std::size_t bytes(int experts, int threads);
};
void route_softmax_topk(Compute& compute, const float* logits, int rows, int experts, int top_k, bool normalise,
                        std::int32_t* ids, float* weights, RouterScratch& scratch);
void route_softmax_topk(Compute& compute, const float* logits, int rows, int experts, int top_k, bool normalise,
                        std::int32_t* ids, float* weights);  // allocates its scratch at every call

// cos and sin tables [rows, half] of position * inv_freq, each times attention_factor. inv_freq: [half] shared by all
// rows, or [rows, half] when per_row.
void rope_table(const std::int64_t* positions, const float* inv_freq, bool per_row, float attention_factor, int rows,
                int half, float* cos, float* sin);
// Rotates x [rows, heads, head_dim] in place, half-split.
void rope(Compute& compute, float* x, const float* cos, const float* sin, int rows, int heads, int head_dim);

// Embedding rows: source elements [rows, n] widened to float32.
void widen(const std::byte* source, quant::SourceType type, std::int64_t count, float* y);

// ---- attention over blocks of 64 keys -------------------------------------------------------------------------------
// kernels/kv.h: blocks of 64 positions, segments of 512, KvType f32 | bf16 | f16.
std::size_t bytes(KvType type);

// One layer's part of one KV block: K [kv_heads][head_dim][64], then V [kv_heads][64][head_dim], of type `type`.
struct KvLayout {
    KvType type = KvType::f32;
    int kv_heads = 0, head_dim = 0;
    std::size_t block_bytes() const;  // of one layer, rounded up to 64
};

// Writes k, v [rows, kv_heads, head_dim] (rounded to the KV type) of rows at position positions[r] into blocks[r],
// the layer part of the block that holds that position.
void kv_append(Compute& compute, const KvLayout& layout, const float* k, const float* v, const std::int64_t* positions,
               std::byte* const* blocks, int rows);

// Ragged batch: row r is one query token at positions[r] of its sequence; its keys are blocks
// block_tables[table_begin[r] ...] covering positions 0..positions[r] (entries for blocks wholly before the window may
// be null). q, y: [rows, heads, head_dim]. window = 0 means unlimited; sinks: [heads] or null.
struct AttentionJob {
    KvLayout layout;
    int heads = 0;
    float scale = 0;
    std::int64_t window = 0;
    const float* sinks = nullptr;
    const float* q = nullptr;
    const std::int64_t* positions = nullptr;
    const std::byte* const* block_tables = nullptr;
    const std::int64_t* table_begin = nullptr;  // [rows]
    int rows = 0;
    float* y = nullptr;
};
// Rows computed together: consecutive positions of one sequence that see keys of the same segments.
struct AttentionTile {
    std::int32_t row = 0, rows = 0;          // from row `row` on
    std::int64_t segment = 0, segments = 0;  // the first one seen, and how many
    std::int64_t unit = 0;                   // where segments are shared out: the number of its first
};
// Tiles, and states under way; reused between calls, grows to the largest call.
struct AttentionScratch {
    std::vector<float> floats;
    std::vector<AttentionTile> tiles;
    std::size_t held() const;  // bytes
    // The most that calls of up to `rows` rows at positions below `max_len` make it hold.
    static std::size_t bytes(const KvLayout& layout, int heads, int rows, std::int64_t max_len, int threads);
};
void attention(Compute& compute, const AttentionJob& job, AttentionScratch& scratch);
void attention(Compute& compute, const AttentionJob& job);  // allocates its scratch at every call

}  // namespace moestro::kernels
