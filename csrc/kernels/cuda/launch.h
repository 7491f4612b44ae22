// The operations of a decoder step as CUDA kernels behind raw pointers. What they compute is docs/numerics.md, the same
// bits as the processor's tables (kernels/table.h); which rows share a launch changes nothing.
//
// Every function puts work on a stream and returns what the launch said, a cudaError_t as int (0: fine). Nothing is
// allocated and nothing waits. Pointers are to memory that the device reaches (its own, or pinned), unless said.
// Outputs never alias inputs unless said. Sizes are the caller's promise.
//
// Faults: an input that is not finite where docs/numerics.md forbids it leaves its Fault in *fault (the first one
// stays); outputs are then unspecified. The caller looks when it waits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv.h"
#include "kernels/ops.h"
#include "quant/format.h"

struct CUstream_st;

namespace moestro::kernels::cuda {

using Stream = CUstream_st*;
using Status = int;  // a cudaError_t

enum class Fault : std::uint32_t { none, quantise, norm, router, kv };

// Takes small arrays of the host along to the device, in stream order: what is returned is readable by what is put on
// the stream next, until the stream has passed the launch it was sent for. Null where it cannot; launches then return
// cudaErrorMemoryAllocation.
class Courier {
  public:
    virtual ~Courier() = default;
    virtual const void* send(const void* data, std::size_t bytes, Stream stream) = 0;
};

// ---- linears --------------------------------------------------------------------------------------------------------
// Rows of activations quantised: [rows, groups * 32] codes, [rows, groups] scales and sums of codes. Each starts on a
// multiple of 16 bytes.
struct Codes {
    std::int8_t* codes = nullptr;
    float* scales = nullptr;
    std::int32_t* sums = nullptr;
};
Status quantise(const float* x, int rows, int cols, const Codes& to, std::uint32_t* fault, Stream stream);

// One matrix over some rows of a launch's inputs. `weight` is a Matrix whose data and bias the device reaches.
struct LinearItem {
    Matrix weight;
    const std::int32_t* rows = nullptr;  // of the device: ids of input rows; null: first, first + 1, ...
    std::int32_t first = 0, count = 0;
    float* y = nullptr;  // of the i-th of them: y + i * ldy
    std::int64_t ldy = 0;
};
// Inputs that all items read: floats for f32 and bf16, codes for q8 and q4. cols: of every weight.
struct LinearInputs {
    const float* x = nullptr;
    Codes codes;
    int cols = 0;
};
// items: of the host, formats mixed as they come. Few rows stream weights at memory bandwidth; many go through tensor
// cores (q8, q4) or in tiles (bf16, f32).
Status linear(const LinearInputs& inputs, const LinearItem* items, int count, Courier& courier, Stream stream);
// kernels::linear_by_head: y[r, h] = W_h x[r, h].
Status linear_by_head(const LinearInputs& inputs, int rows, const HeadMatrices& weights, float* y, std::int64_t ldy,
                      Courier& courier, Stream stream);

// ---- gated MLPs -----------------------------------------------------------------------------------------------------
struct ExpertItem {
    Matrix gate, up, down;
    GateKind kind = GateKind::silu;
    std::int32_t first = 0, count = 0;  // its rows: row_ids[first] ...; its pairs have the same numbers
    float* y = nullptr;                 // [count, hidden]
};
struct ExpertsLaunch {
    const ExpertItem* items = nullptr;  // of the host
    int count = 0;
    const std::int32_t* row_ids = nullptr;  // of the host: [pairs], rows of the inputs
    int pairs = 0;
    LinearInputs inputs;
    int intermediate = 0;
    // Scratch: gate and up [pairs, intermediate] each (gate holds the hidden rows for down of bf16 and f32), hidden's
    // codes [pairs, groups * 32] and so on, `marks` [count + 1] that are 0 between launches.
    float *gate = nullptr, *up = nullptr;
    Codes hidden;
    std::uint32_t* marks = nullptr;
    std::uint32_t* fault = nullptr;
};
// At few rows per item one launch streams every record once; else grouped launches over all items.
Status experts(const ExpertsLaunch& launch, Courier& courier, Stream stream);

// y[t] = fma over j in order of weights[t, j] * outputs[t, j]; outputs: [rows * top_k] pointers, of the device; null
// ones contribute nothing.
Status combine(const float* const* outputs, const float* weights, int rows, int top_k, int hidden, float* y,
               Stream stream);

// ---- rowwise --------------------------------------------------------------------------------------------------------
// y may be x.
Status rms_norm(const float* x, const float* weight, float eps, int rows, int n, float* y, std::uint32_t* fault,
                Stream stream);
Status layer_norm(const float* x, const float* weight, const float* bias, float eps, int rows, int n, float* y,
                  std::uint32_t* fault, Stream stream);
Status add(float* x, const float* y, std::int64_t count, Stream stream);
Status add_scaled(float* x, float factor, const float* y, std::int64_t count, Stream stream);
Status scale(float* x, float factor, std::int64_t count, Stream stream);
Status sigmoid_mul(float* x, const float* gate, std::int64_t count, Stream stream);
Status clamp(float* x, float bound, std::int64_t count, Stream stream);
Status softcap(float* x, float cap, std::int64_t count, Stream stream);
Status scale_rows(float* x, const float* factors, int rows, int n, Stream stream);
Status scale_rows_by_sigmoid(float* x, const float* logits, int rows, int n, Stream stream);
Status rope(const RopeJob& job, const float* cos, const float* sin, Stream stream);

// ---- router and sampler ---------------------------------------------------------------------------------------------
// kernels::route. rule.correction: of the device.
Status route(const RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids, float* weights,
             std::uint32_t* fault, Stream stream);
// The k largest of every row of [rows, n] in descending order, ties to the lower id: values and ids [rows, k]. k <=
// 256.
Status top_k(const float* x, int rows, int n, int k, float* values, std::int32_t* ids, Stream stream);

// ---- attention ------------------------------------------------------------------------------------------------------
// kernels::kv_append; blocks: [rows] starts of the blocks, `offset` bytes into each lies the layer's part.
Status kv_append(const KvLayout& layout, const float* k, const float* v, const std::int64_t* positions,
                 std::byte* const* blocks, std::size_t offset, int rows, std::uint32_t* fault, Stream stream);

struct AttentionLaunch {
    AttentionJob job;                // its arrays are of the device
    std::size_t offset = 0;          // of the layer's part in a block
    std::int64_t most_segments = 1;  // of 512 positions: the most that a row sees some of
    float* states = nullptr;         // scratch
    std::size_t state_floats = 0;    // how large: attention_floats(...), or less, down to two states of a row
};
std::size_t attention_floats(const KvLayout& layout, int heads, int rows, std::int64_t most_segments);
Status attention(const AttentionLaunch& launch, Stream stream);

}  // namespace moestro::kernels::cuda
