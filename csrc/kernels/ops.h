// The operations of a decoder step on the CPU, threaded, or on the accelerator of their Compute, which then must reach
// all memory that is named here (kernels/accelerator.h). All tensors are dense row-major float32 unless said; outputs
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

// One matrix per head: y[r, h] = W_h x[r, h]. `stacked` holds them one below the other, every one's `rows` rows
// followed by zeros up to `stride` rows, a multiple of its panels'. x: [rows * heads, stacked.cols], prepared. Output
// of row r and head h: y + (r * heads + h) * ldy.
struct HeadMatrices {
    Matrix stacked;
    int heads = 0, rows = 0, stride = 0;
};
void linear_by_head(Compute& compute, const Activations& x, const HeadMatrices& weights, float* y, std::int64_t ldy);

// What gate and up make of each other: silu(g) u; gelu(g) u, in gelu's tanh form; and (u' + 1) g' sigmoid(1.702 g')
// with g' = min(g, 7), u' = u within [-7, 7].
enum class GateKind : std::uint8_t { silu, gelu_tanh, clamped_swiglu };

// Gated MLPs, any number of experts in one call and one dispatch (a dense MLP is one expert over all rows).
struct Mlp {
    Matrix gate, up, down;  // [I, H], [I, H], [H, I]
    GateKind kind = GateKind::silu;
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

// y = (x - mean) / sqrt(variance + eps) * w (+ bias) over the last dimension; bias may be null, y may equal x.
void layer_norm(Compute& compute, const float* x, const float* weight, const float* bias, float eps, int rows, int n,
                float* y);

// Elementwise over `count` floats: x += y; x += factor * y (fused); x *= factor; x *= sigmoid(gate); x within
// [-bound, bound]; x = cap * tanh(x / cap).
void add(Compute& compute, float* x, const float* y, std::int64_t count);
void add_scaled(Compute& compute, float* x, float factor, const float* y, std::int64_t count);
void scale(Compute& compute, float* x, float factor, std::int64_t count);
void sigmoid_mul(Compute& compute, float* x, const float* gate, std::int64_t count);
void clamp(Compute& compute, float* x, float bound, std::int64_t count);
void softcap(Compute& compute, float* x, float cap, std::int64_t count);
// Row r of x [rows, n] times factors[r], or times sigmoid(logits[r]).
void scale_rows(Compute& compute, float* x, const float* factors, int rows, int n);
void scale_rows_by_sigmoid(Compute& compute, float* x, const float* logits, int rows, int n);

// Row by row of `from`, `count` floats that lie from_step apart, into rows to_step apart.
void copy_rows(Compute& compute, const float* from, std::int64_t from_step, float* to, std::int64_t to_step,
               std::int64_t rows, int count);

// How a router's logits choose experts and weigh them.
struct RouterRule {
    enum class Score : std::uint8_t {
        softmax,            // of all logits
        sigmoid,            // of each
        chosen,             // the logits themselves; weights are the softmax of the chosen ones
        sigmoid_of_chosen,  // the logits themselves; weights are their sigmoids
        sparsemixer         // two rounds of arg max (2310.00811); two experts
    } score = Score::softmax;
    int top_k = 1;
    bool normalise = false;  // weights are divided by max(their sum + norm_eps, norm_min) ...
    float norm_eps = 0, norm_min = 0;
    float scale = 1;                    // ... and multiplied by this
    const float* correction = nullptr;  // [experts], added to the scores that choose, not to the weights; or null
    int groups = 1, kept_groups = 1;    // experts are cut into groups in a row, of which so many take part,
    int group_best = 1;                 // by the sum of so many best scores of each
    float jitter = 0;                   // sparsemixer
};
// Experts by descending score, ties to the lower id. logits [rows, experts] -> ids, weights [rows, top_k].
struct RouterScratch {  // reused between calls; grows to the largest call
    std::vector<float> scores;
    static std::size_t bytes(int experts, int threads);
};
void route(Compute& compute, const RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids,
           float* weights, RouterScratch& scratch);
void route(Compute& compute, const RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids,
           float* weights);  // allocates its scratch at every call

// cos and sin tables [rows, half] of position * inv_freq, each times attention_factor. inv_freq: [half] shared by all
// rows, or [rows, half] when per_row.
void rope_table(const std::int64_t* positions, const float* inv_freq, bool per_row, float attention_factor, int rows,
                int half, float* cos, float* sin);
// Rotates 2 * half elements, from `first` on, of every head of x [rows, heads, head_dim] in place: halves against each
// other, or neighbours. cos, sin: [rows, half].
enum class RopePairs : std::uint8_t { halves, neighbours };
struct RopeJob {
    float* x = nullptr;
    int rows = 0, heads = 0, head_dim = 0;
    int first = 0, half = 0;
    RopePairs pairs = RopePairs::halves;
};
void rope(Compute& compute, const RopeJob& job, const float* cos, const float* sin);

// Embedding rows: source elements [rows, n] widened to float32.
void widen(const std::byte* source, quant::SourceType type, std::int64_t count, float* y);

// ---- attention over blocks of 64 keys -------------------------------------------------------------------------------
// kernels/kv.h: blocks of 64 positions, segments of 512, KvType f32 | bf16 | f16.
std::size_t bytes(KvType type);

// One layer's part of one KV block, of type `type`. K [kv_heads][key_dim][64], then V [kv_heads][64][value_dim]; or,
// latent, one array [kv_heads][64][key_dim] of whose rows the first value_dim elements are V.
struct KvLayout {
    KvType type = KvType::f32;
    int kv_heads = 0;
    int key_dim = 0, value_dim = 0;
    bool latent = false;
    std::size_t block_bytes() const;  // of one layer, rounded up to 64
};

// Writes k [rows, kv_heads, key_dim] and v [rows, kv_heads, value_dim] (rounded to the KV type) of rows at position
// positions[r] into blocks[r], the layer part of the block that holds that position. v is null where it is latent.
void kv_append(Compute& compute, const KvLayout& layout, const float* k, const float* v, const std::int64_t* positions,
               std::byte* const* blocks, int rows);

// Ragged batch: row r is one query token at positions[r] of its sequence; its keys are blocks
// block_tables[table_begin[r] ...] covering positions 0..positions[r] (entries for blocks wholly before what it sees
// may be null). q: [rows, heads, key_dim]; y: [rows, heads, value_dim]. sinks: [heads] or null.
struct AttentionJob {
    KvLayout layout;
    int heads = 0;
    float scale = 0;
    float softcap = 0;  // c: a score s becomes c * tanh(s / c); 0: it stays
    Reach reach;
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
