// Many rows of activations times a matrix: tiles of 128 outputs and 64 rows. Sums of a segment and totals stay in
// registers; the next step's operands are on their way to the other half of shared memory while one is computed.
#include "base/types.h"
#include "kernels/cuda/linear.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kOutputs = 128, kRows = 64;

// A block's tile, in shared memory.
struct Tile {
    Job job;
    Input input;
    int output, row;  // its first ones
    int ids[kRows];   // of the input's rows; those beyond the last are the last again: computed, not written

    __device__ __forceinline__ void write(int r, int n, float total) const {
        if (row + r >= job.count || output + n >= job.weight.rows) return;
        const float* const bias = job.weight.bias;
        job.y[(row + r) * job.ldy + output + n] = bias ? add(total, bias[output + n]) : total;
    }
};
// All threads call it together. Tiles that read the same weights are neighbours.
__device__ __forceinline__ void take_tile(const Input& input, const Job* jobs, const std::int32_t* begins, int count,
                                          Tile& tile) {
    __shared__ int number;
    const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
    find_run(begins, count, block, number);
    if (thread == 0) {
        tile.job = jobs[number];
        tile.input = input;
        const int across = (tile.job.count + kRows - 1) / kRows;
        tile.output = (block - begins[number]) / across * kOutputs;
        tile.row = (block - begins[number]) % across * kRows;
    }
    __syncthreads();
    const int last = tile.job.count - 1;
    if (thread < kRows) tile.ids[thread] = tile.job.row(tile.row + thread < last ? tile.row + thread : last);
    __syncthreads();
}

// ---- q8 and q4: a step is 4 groups of 32 columns --------------------------------------------------------------------
constexpr int kStep = 4;
constexpr int kPanelsOfTile = kOutputs / 16;
constexpr int kRowWords = kStep * 8 + 4;  // of an activation row: a fragment's eight rows lie in different banks

template <bool kFour>
struct Stage {
    static constexpr int kGroupBytes = kFour ? 256 : 512;
    alignas(16) std::byte weights[kPanelsOfTile][kStep][kGroupBytes];
    alignas(16) std::uint32_t codes[kRows][kRowWords];
    alignas(16) float weight_scales[kStep][kOutputs];
    alignas(16) float scales[kStep][kRows];
    alignas(16) int starts[kStep][kRows];
};

// What a thread brings to every step: chunks of 16 bytes that are copied, and scales that it widens on the way.
template <bool kFour>
class Supply {
  public:
    __device__ explicit Supply(const Tile& tile) : tile_(tile) {}

    // Asks for all that step `step` needs.
    __device__ __forceinline__ void ask(int step, Stage<kFour>& stage) {
        constexpr int kGroupBytes = Stage<kFour>::kGroupBytes, kPanelChunks = kStep * kGroupBytes / 16;
        const int thread = static_cast<int>(threadIdx.x), first_group = step * kStep;
        const int groups = tile_.input.groups - first_group < kStep ? tile_.input.groups - first_group : kStep;
        const int segment = first_group / 8, within = first_group % 8;
        const int whole =
            tile_.input.groups - segment * 8 < 8 ? tile_.input.groups - segment * 8 : 8;  // groups of the segment
        const int before = scale_bytes(whole, tile_.job.weight.scale) + within * kGroupBytes;
#pragma unroll 2
        for (int i = 0; i < kPanelsOfTile * kPanelChunks / kThreads; ++i) {
            const int chunk = thread + i * kThreads, panel = chunk / kPanelChunks, at = chunk % kPanelChunks * 16;
            if (at < groups * kGroupBytes)
                copy_async(&stage.weights[panel][0][0] + at, segment_of(panel, segment) + before + at);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i)
            if (thread % 8 < groups * 2)
                copy_async(&stage.codes[thread / 8 + i * 32][thread % 8 * 4],
                           tile_.input.codes + group_of(thread / 8 + i * 32, first_group) * 32 + thread % 8 * 16);
        copy_commit();
        if (thread / 16 < kPanelsOfTile) {
            const int four = thread % 16;
            if (four < groups * 4)
                weight_scales_ =
                    load_scales(segment_of(thread / 16, segment), (within * 4 + four) * 4, tile_.job.weight.scale);
        }
        if (thread % 4 < groups) {
            const std::int64_t group = group_of(thread / 4, first_group + thread % 4);
            scale_ = tile_.input.scales[group];
            if constexpr (kFour) sum_ = tile_.input.sums[group];
        }
    }
    // Puts down the scales that were asked for.
    __device__ __forceinline__ void put(Stage<kFour>& stage) const {
        const int thread = static_cast<int>(threadIdx.x);
        if (thread / 16 < kPanelsOfTile)
            *reinterpret_cast<float4*>(&stage.weight_scales[thread % 16 / 4][thread / 16 * 16 + thread % 4 * 4]) =
                widen_scales(weight_scales_, tile_.job.weight.scale);
        stage.scales[thread % 4][thread / 4] = scale_;
        if constexpr (kFour) stage.starts[thread % 4][thread / 4] = dot_start<kFour>(static_cast<std::uint32_t>(sum_));
    }

  private:
    // Panels beyond the last are the last again.
    __device__ __forceinline__ const std::byte* segment_of(int panel, int segment) const {
        const Panels& weight = tile_.job.weight;
        const int wanted = tile_.output / 16 + panel, last = (weight.rows - 1) / 16;
        return weight.data + (wanted < last ? wanted : last) * weight.panel_bytes +
               std::int64_t{segment} * weight.segment_bytes;
    }
    __device__ __forceinline__ std::int64_t group_of(int row, int group) const {
        return std::int64_t{tile_.ids[row]} * tile_.input.groups + group;
    }

    const Tile& tile_;
    uint4 weight_scales_{};
    float scale_ = 0;
    std::int32_t sum_ = 0;
};

// Sums of a warp: 32 outputs (two panels) of 32 rows (four fragments of eight).
using Sums = float[2][4][4];

template <bool kFour>
__device__ __forceinline__ void add_groups(const Stage<kFour>& stage, int groups, int panel, int row, Sums& acc) {
    const int lane = static_cast<int>(threadIdx.x % 32), pair = lane / 4, quad = lane % 4;
#pragma unroll
    for (int g = 0; g < kStep; ++g) {
        if (g >= groups) break;
        std::uint32_t a[2][4];
        float2 w[2];
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            GroupWords<kFour> words;
#pragma unroll
            for (int i = 0; i < (kFour ? 1 : 2); ++i)
                words.quads[i] =
                    *reinterpret_cast<const uint2*>(&stage.weights[panel + p][g][i * 256 + quad * 64 + pair * 8]);
            words.fragment(a[p]);
            w[p] = *reinterpret_cast<const float2*>(&stage.weight_scales[g][(panel + p) * 16 + pair * 2]);
        }
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            const std::uint32_t* const codes = &stage.codes[row + n * 8 + pair][g * 8 + quad];
            const std::uint32_t b[2] = {codes[0], codes[4]};
            const float2 x = *reinterpret_cast<const float2*>(&stage.scales[g][row + n * 8 + quad * 2]);
            int2 start = make_int2(kDotStart, kDotStart);
            if constexpr (kFour) start = *reinterpret_cast<const int2*>(&stage.starts[g][row + n * 8 + quad * 2]);
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                int dots[4] = {start.x, start.y, start.x, start.y};
                mma_s8(dots, a[p], b);
                acc[p][n][0] = fma(mul(w[p].x, x.x), dot_of(dots[0]), acc[p][n][0]);
                acc[p][n][1] = fma(mul(w[p].x, x.y), dot_of(dots[1]), acc[p][n][1]);
                acc[p][n][2] = fma(mul(w[p].y, x.x), dot_of(dots[2]), acc[p][n][2]);
                acc[p][n][3] = fma(mul(w[p].y, x.y), dot_of(dots[3]), acc[p][n][3]);
            }
        }
    }
}

template <bool kFour>
__global__ void __launch_bounds__(kThreads, 2)
    integer_tiles(Input input, const Job* jobs, const std::int32_t* begins, int count) {
    auto* const stages = reinterpret_cast<Stage<kFour>*>(shared_memory());
    __shared__ Tile tile;
    take_tile(input, jobs, begins, count, tile);
    const int warp = static_cast<int>(threadIdx.x / 32), panel = warp % 4 * 2, row = warp / 4 * 32;
    const bool busy = tile.row + row < tile.job.count;
    Supply<kFour> supply(tile);
    Sums totals = {}, acc = {};
    const int steps = (input.groups + kStep - 1) / kStep;
    supply.ask(0, stages[0]);
    supply.put(stages[0]);
    for (int step = 0; step < steps; ++step) {
        copy_wait<0>();
        __syncthreads();
        Stage<kFour>&stage = stages[step % 2], &next = stages[(step + 1) % 2];
        if (step + 1 < steps) supply.ask(step + 1, next);
        if (busy) add_groups<kFour>(stage, input.groups - step * kStep, panel, row, acc);
        if (step + 1 < steps) supply.put(next);
        if (step % (8 / kStep) != 8 / kStep - 1 && step + 1 < steps) continue;
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            float& sum = acc[i / 16][i / 4 % 4][i % 4];
            float& total = totals[i / 16][i / 4 % 4][i % 4];
            total = add(total, sum);
            sum = 0.0f;
        }
    }
    const int pair = static_cast<int>(threadIdx.x % 32 / 4), quad = static_cast<int>(threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
        const int p = i / 16, n = i / 4 % 4, j = i % 4;
        tile.write(row + n * 8 + quad * 2 + j % 2, (panel + p) * 16 + pair * 2 + j / 2, totals[p][n][j]);
    }
}

// ---- bf16 and f32: a step is 16 columns, and every thread 8 outputs of 4 rows ---------------------------------------
constexpr int kColumns = 16;
constexpr int kRowStride = kRows + 4;

struct FloatStage {
    alignas(16) float weights[kColumns][kOutputs];
    alignas(16) float x[kColumns][kRowStride];
};

struct Eight {
    float4 low, high;
};
__device__ __forceinline__ Eight widen_eight(const uint4 (&words)[1]) {
    const uint4 w = words[0];
    return {make_float4(from_bf16(w.x), as_float(w.x & 0xffff0000u), from_bf16(w.y), as_float(w.y & 0xffff0000u)),
            make_float4(from_bf16(w.z), as_float(w.z & 0xffff0000u), from_bf16(w.w), as_float(w.w & 0xffff0000u))};
}
__device__ __forceinline__ Eight widen_eight(const uint4 (&words)[2]) {
    return {make_float4(as_float(words[0].x), as_float(words[0].y), as_float(words[0].z), as_float(words[0].w)),
            make_float4(as_float(words[1].x), as_float(words[1].y), as_float(words[1].z), as_float(words[1].w))};
}

// A thread's 8 weights of one column, and 4 columns of one row. kWords: 16 bytes that eight weights take.
template <int kWords>
class FloatSupply {
  public:
    __device__ explicit FloatSupply(const Tile& tile) : cols_(tile.input.cols) {
        const Panels& weight = tile.job.weight;
        const int thread = static_cast<int>(threadIdx.x);
        const int panel = tile.output / 32 + thread / 64, last = (weight.rows - 1) / 32;
        weights_ = reinterpret_cast<const uint4*>(weight.data + (panel < last ? panel : last) * weight.panel_bytes) +
                   thread % 64 * kWords;
        x_ = tile.input.x + std::int64_t{tile.ids[thread / 4]} * cols_;
    }
    __device__ __forceinline__ void ask(int step) {
#pragma unroll
        for (int i = 0; i < kWords; ++i) words_[i] = stream_load(weights_ + step * kColumns * 4 * kWords + i);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int column = step * kColumns + static_cast<int>(threadIdx.x % 4) * 4 + i;
            values_[i] = column < cols_ ? x_[column] : 0.0f;
        }
    }
    __device__ __forceinline__ void put(FloatStage& stage) const {
        const int thread = static_cast<int>(threadIdx.x);
        const Eight eight = widen_eight(words_);
        auto* const to = reinterpret_cast<float4*>(&stage.weights[thread % 64 / 4][thread / 64 * 32 + thread % 4 * 8]);
        to[0] = eight.low;
        to[1] = eight.high;
#pragma unroll
        for (int i = 0; i < 4; ++i) stage.x[thread % 4 * 4 + i][thread / 4] = values_[i];
    }

  private:
    const uint4* weights_;
    const float* x_;
    int cols_;
    uint4 words_[kWords];
    float values_[4];
};

template <int kWords>
__global__ void __launch_bounds__(kThreads, 2)
    float_tiles(Input input, const Job* jobs, const std::int32_t* begins, int count) {
    auto* const stages = reinterpret_cast<FloatStage*>(shared_memory());
    __shared__ Tile tile;
    take_tile(input, jobs, begins, count, tile);
    const int output = static_cast<int>(threadIdx.x % 16) * 4, row = static_cast<int>(threadIdx.x / 16) * 4;
    FloatSupply<kWords> supply(tile);
    float totals[8][4] = {}, acc[8][4] = {};
    const int steps = (input.cols + kColumns - 1) / kColumns;
    supply.ask(0);
    supply.put(stages[0]);
    for (int step = 0; step < steps; ++step) {
        __syncthreads();
        const FloatStage& stage = stages[step % 2];
        if (step + 1 < steps) supply.ask(step + 1);
            // Columns beyond the last are zeros times zeros, which change no sum but the sign of a zero, and that is
            // lost when it is added to a total.
#pragma unroll 4
        for (int k = 0; k < kColumns; ++k) {
            const float4 low = *reinterpret_cast<const float4*>(&stage.weights[k][output]);
            const float4 high = *reinterpret_cast<const float4*>(&stage.weights[k][output + 64]);
            const float4 four = *reinterpret_cast<const float4*>(&stage.x[k][row]);
            const float w[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
            const float x[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 32; ++i) acc[i / 4][i % 4] = fma(w[i / 4], x[i % 4], acc[i / 4][i % 4]);
        }
        if (step + 1 < steps) supply.put(stages[(step + 1) % 2]);
        if (step % (256 / kColumns) != 256 / kColumns - 1 && step + 1 < steps) continue;
#pragma unroll
        for (int i = 0; i < 32; ++i) {
            totals[i / 4][i % 4] = add(totals[i / 4][i % 4], acc[i / 4][i % 4]);
            acc[i / 4][i % 4] = 0.0f;
        }
    }
#pragma unroll
    for (int i = 0; i < 32; ++i) tile.write(row + i % 4, i / 16 * 64 + output + i / 4 % 4, totals[i / 4][i % 4]);
}

}  // namespace

Status launch_many(Format format, const Input& input, const Jobs& jobs, Courier& courier, Stream stream) {
    const Runs runs(jobs,
                    [](const Job& job) { return ceil_div(job.weight.rows, kOutputs) * ceil_div(job.count, kRows); });
    switch (format) {
        case Format::q8:
            return runs.launch(integer_tiles<false>, kThreads, 2 * sizeof(Stage<false>), courier, stream, input);
        case Format::q4:
            return runs.launch(integer_tiles<true>, kThreads, 2 * sizeof(Stage<true>), courier, stream, input);
        case Format::bf16:
            return runs.launch(float_tiles<1>, kThreads, 2 * sizeof(FloatStage), courier, stream, input);
        default:
            return runs.launch(float_tiles<2>, kThreads, 2 * sizeof(FloatStage), courier, stream, input);
    }
}

}  // namespace moestro::kernels::cuda
