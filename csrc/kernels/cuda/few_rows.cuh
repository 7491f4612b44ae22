// Up to 8 rows of activations times 64 outputs, by a block: what streams weights at the speed of memory.
//
// A warp takes up to 8 KB of weights at a time, for q8 and q4 those of 32 outputs over a segment, and asks for all of
// them at once, before it looks at the activations. So many bytes are under way, and a warp that waits for rows which
// are still being computed has its weights already. Sums of segments go to shared memory and are added there in their
// order.
#pragma once

#include "kernels/cuda/panels.cuh"

namespace moestro::kernels::cuda {

inline constexpr int kFewRows = 8;
inline constexpr int kFewWarps = 8, kFewThreads = kFewWarps * 32;
inline constexpr int kHalf = 32, kTile = 2 * kHalf;

// 32 outputs of a matrix: two panels of q8 or q4, one of bf16 or f32.
struct Half {
    const std::byte* data;
    std::int64_t panel_bytes;
    std::int32_t segment_bytes, lanes;  // outputs that exist, 0..32
    Format format;
    ScaleType scale;
};
__device__ inline Half half_of(const Panels& matrix, int half) {
    const int first = half * kHalf, lanes = matrix.rows - first;
    return {matrix.data + first / (integer(matrix.format) ? 16 : 32) * matrix.panel_bytes,
            matrix.panel_bytes,
            matrix.segment_bytes,
            lanes < 0       ? 0
            : lanes < kHalf ? lanes
                            : kHalf,
            matrix.format,
            matrix.scale};
}

// A block's work, in shared memory. The second half may have no lanes, the first has some.
struct FewRows {
    Half halves[2];
    Input input;
    std::int32_t count;          // rows, 1..8,
    std::int32_t ids[kFewRows];  // and which
    // They may be read when other blocks have counted the mark up to this; null: at once.
    const std::uint32_t* mark;
    std::uint32_t wanted;
};
// All lanes of a warp call it together.
__device__ __forceinline__ void wait_for_rows(const FewRows& rows, bool& waited) {
    if (waited) return;
    waited = true;
    if (!rows.mark) return;
    while (load_mark(rows.mark) < rows.wanted) {
    }
    __threadfence();
    __syncwarp();
}

// Dynamic shared memory: totals, [row][64 outputs]; sums of as many segments as fit, each like the totals; then a slice
// for every warp.
inline constexpr int kTotals = kFewRows * kTile, kSums = 8 * kTotals;
// A slice holds, for q8 and q4, of one segment: the weights' scales, [2 panels][8 groups][16 rows]; the activations'
// scales and the dots' starts, [8 groups][8 rows]; their codes, rows of 64 words and 4 between, so that a fragment's
// eight rows lie in different banks. For floats: rows of one batch for either half of a warp, as far as they go.
inline constexpr int kRowWords = 68;
__host__ __device__ constexpr int slice_words(int rows) {
    return 256 + 2 * 64 + rows * kRowWords;
}
inline std::size_t few_rows_bytes(int most_rows) {
    return sizeof(float) *
           (kTotals + kSums + static_cast<std::size_t>(kFewWarps) * static_cast<std::size_t>(slice_words(most_rows)));
}

__device__ __forceinline__ int segments_of(const FewRows& rows) {
    return (rows.input.cols + 255) / 256;
}
__device__ __forceinline__ int fitting(const FewRows& rows) {
    return rows.count == 1 ? 64 : rows.count == 2 ? 32 : rows.count <= 4 ? 16 : 8;
}

struct Round {  // segments whose sums fit
    int first, segments;
};
struct Some {  // of a tile's halves
    int first, count;
};

template <bool kFour>
__device__ __forceinline__ void load_codes(const std::byte* codes, int groups, GroupWords<kFour> (&words)[8]) {
    constexpr int kLoads = kFour ? 1 : 2;
    const unsigned lane = threadIdx.x % 32;
    const uint2* at = reinterpret_cast<const uint2*>(codes) + lane % 4 * 8 + lane / 4;
#pragma unroll
    for (int g = 0; g < 8; ++g) {
        const uint2* group = at + (groups == 8 ? g : g < groups ? g : 0) * kLoads * 32;
#pragma unroll
        for (int i = 0; i < kLoads; ++i) words[g].quads[i] = stream_load(group + i * 32);
    }
}

// The rows' codes, scales and starts of dots over a segment.
template <bool kFour>
__device__ __forceinline__ void stage_codes(const FewRows& rows, int segment, int groups, std::uint32_t* slice) {
    const int lane = static_cast<int>(threadIdx.x % 32);
    for (int i = lane; i < 64; i += 32) {
        const int row = i / 8, group = i % 8;
        if (row >= rows.count || group >= groups) continue;
        const std::int64_t at = std::int64_t{rows.ids[row]} * rows.input.groups + segment * 8 + group;
        slice[256 + group * 8 + row] = load_fresh(reinterpret_cast<const std::uint32_t*>(rows.input.scales) + at);
        if constexpr (kFour) {
            const std::uint32_t sum = load_fresh(reinterpret_cast<const std::uint32_t*>(rows.input.sums) + at);
            slice[320 + group * 8 + row] = static_cast<std::uint32_t>(dot_start<kFour>(sum));
        }
    }
    if (lane >= groups * 4) return;
#pragma unroll 4
    for (int row = 0; row < rows.count; ++row) {
        const std::int64_t group = std::int64_t{rows.ids[row]} * rows.input.groups + segment * 8;
        const uint2 words = load_fresh(reinterpret_cast<const uint2*>(rows.input.codes + group * 32) + lane);
        *reinterpret_cast<uint2*>(slice + 384 + row * kRowWords + lane * 2) = words;
    }
}

// Segment sums of the panels of q8 or q4 in `some` halves. waited: whether the warp has waited for the rows.
template <bool kFour>
__device__ __forceinline__ void integer_sums(const FewRows& rows, Some some, Round round, std::uint32_t* slice,
                                             float* sums, bool& waited) {
    const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
    const int pair = lane / 4, quad = lane % 4;
    const int units = round.segments * some.count, share = (units + kFewWarps - 1) / kFewWarps;
    const int end = (warp + 1) * share < units ? (warp + 1) * share : units;
    const std::uint32_t* const codes = slice + 384 + (pair < rows.count ? pair : 0) * kRowWords + quad;
    int staged = -1;
    for (int unit = warp * share; unit < end; ++unit) {
        const int segment = round.first + unit / some.count, side = some.first + unit % some.count;
        const Half& half = rows.halves[side];
        const int groups = rows.input.groups - segment * 8 < 8 ? rows.input.groups - segment * 8 : 8;
        GroupWords<kFour> words[2][8];
        uint4 scales[2];
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            const std::int64_t panel = half.lanes > 16 ? p * half.panel_bytes : 0;  // where there is one, it is both
            const std::byte* at = half.data + panel + std::int64_t{segment} * half.segment_bytes;
            load_codes<kFour>(at + scale_bytes(groups, half.scale), groups, words[p]);
            scales[p] = load_scales(at, lane < groups * 4 ? lane * 4 : 0, half.scale);
        }
        wait_for_rows(rows, waited);
        if (staged != segment) stage_codes<kFour>(rows, segment, groups, slice);
        staged = segment;
#pragma unroll
        for (int p = 0; p < 2; ++p)
            *reinterpret_cast<float4*>(slice + p * 128 + lane * 4) = widen_scales(scales[p], half.scale);
        __syncwarp();
        float acc[2][4] = {};
#pragma unroll
        for (int g = 0; g < 8; ++g) {
            if (g >= groups) break;
            const std::uint32_t b[2] = {codes[g * 8], codes[g * 8 + 4]};
            const float2 x = *reinterpret_cast<const float2*>(slice + 256 + g * 8 + quad * 2);
            int2 start = make_int2(kDotStart, kDotStart);
            if constexpr (kFour) start = *reinterpret_cast<const int2*>(slice + 320 + g * 8 + quad * 2);
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                std::uint32_t a[4];
                words[p][g].fragment(a);
                int dots[4] = {start.x, start.y, start.x, start.y};
                mma_s8(dots, a, b);
                const float2 w = *reinterpret_cast<const float2*>(slice + p * 128 + g * 16 + pair * 2);
                acc[p][0] = fma(mul(w.x, x.x), dot_of(dots[0]), acc[p][0]);
                acc[p][1] = fma(mul(w.x, x.y), dot_of(dots[1]), acc[p][1]);
                acc[p][2] = fma(mul(w.y, x.x), dot_of(dots[2]), acc[p][2]);
                acc[p][3] = fma(mul(w.y, x.y), dot_of(dots[3]), acc[p][3]);
            }
        }
        __syncwarp();  // the slice may be written again
        float* const to = sums + ((segment - round.first) * rows.count + quad * 2) * kTile + side * kHalf;
#pragma unroll
        for (int p = 0; p < 2; ++p)
#pragma unroll
            for (int r = 0; r < 2; ++r)
                if (quad * 2 + r < rows.count)
                    *reinterpret_cast<float2*>(to + r * kTile + p * 16 + pair * 2) =
                        make_float2(acc[p][r], acc[p][2 + r]);
    }
}

// Two outputs of one column.
__device__ __forceinline__ float2 widen(std::uint32_t pair) {
    return make_float2(from_bf16(pair), as_float(pair & 0xffff0000u));
}
__device__ __forceinline__ float2 widen(uint2 pair) {
    return make_float2(as_float(pair.x), as_float(pair.y));
}

// Segment sums of bf16 (two outputs are a word) or f32 (two words) panels. Half a warp takes a panel's segment, in
// batches of columns; a lane is two outputs of up to kRows rows.
template <class Pair, int kRows>
__device__ __forceinline__ void float_sums(const FewRows& rows, Some some, Round round, std::uint32_t* slice,
                                           float* sums, bool& waited) {
    constexpr int kBatch = sizeof(Pair) == 8 && kRows > 2 ? 16 : 32;  // columns: they divide the padding
    const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 16);
    const int second = static_cast<int>(threadIdx.x % 32 / 16);
    const int units = round.segments * some.count, cols = rows.input.cols;
    float* const x = reinterpret_cast<float*>(slice) + second * (kRows * kBatch + 4);
    for (int pair = warp * 2; pair < units; pair += kFewWarps * 2) {
        const int unit = pair + second < units ? pair + second : pair;  // both do the last one of an odd number
        const int segment = round.first + unit / some.count, side = some.first + unit % some.count;
        const int begin = segment * 256, padded = cols - begin < 256 ? (cols - begin + 31) & ~31 : 256;
        const int longest_begin = (round.first + pair / some.count) * 256;
        const int longest = cols - longest_begin < 256 ? (cols - longest_begin + 31) & ~31 : 256;
        const Half& half = rows.halves[side];
        const Pair* const weights =
            reinterpret_cast<const Pair*>(half.data + std::int64_t{segment} * half.segment_bytes) + lane;
        float acc[kRows][2] = {};
        for (int k = 0; k < longest; k += kBatch) {
            const bool mine = k < padded;
            const Pair* const at = weights + (mine ? k : 0) * 16;
            Pair words[kBatch];
#pragma unroll
            for (int i = 0; i < kBatch; ++i) words[i] = stream_load(at + i * 16);
            wait_for_rows(rows, waited);
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
                for (int i = lane; i < kBatch; i += 16) {
                    const int column = begin + k + i;
                    const bool some_x = r < rows.count && column < cols;
                    const std::int64_t from = some_x ? std::int64_t{rows.ids[r]} * cols + column : 0;
                    x[r * kBatch + i] =
                        some_x ? as_float(load_fresh(reinterpret_cast<const std::uint32_t*>(rows.input.x) + from))
                               : 0.0f;
                }
            __syncwarp();
            if (mine) {
#pragma unroll
                for (int i = 0; i < kBatch; i += 4) {
#pragma unroll
                    for (int r = 0; r < kRows; ++r) {
                        const float4 four = *reinterpret_cast<const float4*>(x + r * kBatch + i);
                        const float columns[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                        for (int j = 0; j < 4; ++j) {
                            const float2 w = widen(words[i + j]);
                            acc[r][0] = fma(w.x, columns[j], acc[r][0]);
                            acc[r][1] = fma(w.y, columns[j], acc[r][1]);
                        }
                    }
                }
            }
            __syncwarp();
        }
        float* const to = sums + (segment - round.first) * rows.count * kTile + side * kHalf + lane * 2;
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            if (r < rows.count) *reinterpret_cast<float2*>(to + r * kTile) = make_float2(acc[r][0], acc[r][1]);
    }
}

template <class Pair>
__device__ __forceinline__ void float_sums(const FewRows& rows, Some some, Round round, std::uint32_t* slice,
                                           float* sums, bool& waited) {
    if (rows.count == 1)
        float_sums<Pair, 1>(rows, some, round, slice, sums, waited);
    else if (rows.count == 2)
        float_sums<Pair, 2>(rows, some, round, slice, sums, waited);
    else if (rows.count <= 4)
        float_sums<Pair, 4>(rows, some, round, slice, sums, waited);
    else
        float_sums<Pair, 8>(rows, some, round, slice, sums, waited);
}

__device__ __forceinline__ void segment_sums(const FewRows& rows, Some some, Round round, std::uint32_t* slice,
                                             float* sums, bool& waited) {
    const Format format = rows.halves[some.first].format;
    if (format == Format::q8)
        integer_sums<false>(rows, some, round, slice, sums, waited);
    else if (format == Format::q4)
        integer_sums<true>(rows, some, round, slice, sums, waited);
    else if (format == Format::bf16)
        float_sums<std::uint32_t>(rows, some, round, slice, sums, waited);
    else
        float_sums<uint2>(rows, some, round, slice, sums, waited);
}

// The product of a block's tile, without biases: totals in shared memory. What belongs to no output is unspecified. All
// threads call it together.
__device__ inline const float* multiply(const FewRows& rows, int most_rows) {
    float* const totals = reinterpret_cast<float*>(shared_memory());
    float* const sums = totals + kTotals;
    std::uint32_t* const slice =
        reinterpret_cast<std::uint32_t*>(sums + kSums) + threadIdx.x / 32 * slice_words(most_rows);
    bool waited = false;
    for (int first = 0; first < segments_of(rows); first += fitting(rows)) {
        const int left = segments_of(rows) - first;
        const Round round{first, left < fitting(rows) ? left : fitting(rows)};
        // Halves of one format go together, or one after the other.
        const bool two = rows.halves[1].lanes > 0, alike = rows.halves[0].format == rows.halves[1].format;
        const int at_once = two && alike ? 2 : 1;
        for (int half = 0; half < (two ? 2 : 1); half += at_once)
            segment_sums(rows, {half, at_once}, round, slice, sums, waited);
        __syncthreads();
        const int values = rows.count * kTile;
        for (int value = static_cast<int>(threadIdx.x); value < values; value += kFewThreads) {
            float total = first == 0 ? 0.0f : totals[value];
            for (int s = 0; s < round.segments; ++s) total = add(total, sums[s * values + value]);
            totals[value] = total;
        }
        __syncthreads();
    }
    return totals;
}

}  // namespace moestro::kernels::cuda
