// Packed matrices as kernels walk them (quant/format.h), and the work of a launch: some matrices, each over some rows.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"

namespace moestro::kernels::cuda {

using quant::Format, quant::ScaleType;

struct Panels {
    const std::byte* data;
    const float* bias;
    std::int64_t panel_bytes;
    std::int32_t segment_bytes;  // of a whole segment
    std::int32_t rows;
    Format format;
    ScaleType scale;
};
inline Panels panels_of(const Matrix& matrix) {
    const quant::MatrixSpec& spec = matrix.spec;
    return {matrix.data,
            matrix.bias,
            static_cast<std::int64_t>(spec.panel_bytes()),
            static_cast<std::int32_t>(spec.segment_bytes(quant::kSegment)),
            spec.rows,
            spec.format,
            spec.scale};
}

__host__ __device__ inline bool integer(Format format) {
    return format == Format::q8 || format == Format::q4;
}
// What a segment of so many groups begins with.
__device__ __forceinline__ int scale_bytes(int groups, ScaleType scale) {
    return (groups * (scale == ScaleType::f32 ? 64 : 32) + 63) & ~63;
}
// Four scales in a row, as they were loaded: 8 bytes, or 16 of f32.
__device__ __forceinline__ uint4 load_scales(const std::byte* scales, int index, ScaleType type) {
    if (type == ScaleType::f32) return stream_load(reinterpret_cast<const uint4*>(scales) + index / 4);
    const uint2 pairs = stream_load(reinterpret_cast<const uint2*>(scales) + index / 4);
    return make_uint4(pairs.x, pairs.y, 0, 0);
}
__device__ __forceinline__ float4 widen_scales(uint4 loaded, ScaleType type) {
    if (type == ScaleType::f32)
        return make_float4(as_float(loaded.x), as_float(loaded.y), as_float(loaded.z), as_float(loaded.w));
    if (type == ScaleType::bf16)
        return make_float4(from_bf16(loaded.x), as_float(loaded.x & 0xffff0000u), from_bf16(loaded.y),
                           as_float(loaded.y & 0xffff0000u));
    return make_float4(
        from_f16(static_cast<std::uint16_t>(loaded.x)), from_f16(static_cast<std::uint16_t>(loaded.x >> 16)),
        from_f16(static_cast<std::uint16_t>(loaded.y)), from_f16(static_cast<std::uint16_t>(loaded.y >> 16)));
}

// A dot of codes is an exact integer below 2^22. Started at the bits of 1.5 * 2^23, it is a float's last bits: that
// float less 1.5 * 2^23 is the dot.
inline constexpr int kDotStart = 0x4b400000;
__device__ __forceinline__ float dot_of(int sum) {
    return sub(as_float(static_cast<std::uint32_t>(sum)), 12582912.0f);
}
// Codes of q4 are stored as code + 8, which adds 8 * (sum of the activation's codes) to every dot.
template <bool kFour>
__device__ __forceinline__ int dot_start(std::uint32_t sum) {
    return kFour ? kDotStart - 8 * static_cast<int>(sum) : kDotStart;
}

// What a lane holds of a q8 or q4 group is two words, rows 2 (lane / 4) and 2 (lane / 4) + 1 of quad lane % 4, and for
// q8 two more of quad 4 + lane % 4. That is a fragment of mma_s8 whose rows g and g + 8 are the panel's 2 g and 2 g +
// 1: loads of 8 bytes, one beside the other over a warp.
template <bool kFour>
struct GroupWords {
    uint2 quads[kFour ? 1 : 2];
    __device__ __forceinline__ void fragment(std::uint32_t (&a)[4]) const {
        if constexpr (kFour) {
            a[0] = quads[0].x & 0x0f0f0f0fu;
            a[1] = quads[0].y & 0x0f0f0f0fu;
            a[2] = quads[0].x >> 4 & 0x0f0f0f0fu;
            a[3] = quads[0].y >> 4 & 0x0f0f0f0fu;
        } else {
            a[0] = quads[0].x;
            a[1] = quads[0].y;
            a[2] = quads[1].x;
            a[3] = quads[1].y;
        }
    }
};

// Rows of activations.
struct Input {
    const float* x;
    const std::int8_t* codes;
    const float* scales;
    const std::int32_t* sums;
    std::int32_t cols, groups;
};
inline Input input_of(const LinearInputs& inputs) {
    const Codes& codes = inputs.codes;
    return {inputs.x, codes.codes, codes.scales, codes.sums, inputs.cols, (inputs.cols + 31) / 32};
}

// One matrix over `count` rows: those of `ids`, or first, first + step, ...
struct Job {
    Panels weight;
    const std::int32_t* ids;
    std::int32_t first, step, count;
    float* y;
    std::int64_t ldy;

    __device__ std::int32_t row(int i) const { return ids ? ids[i] : first + i * step; }
};

// Which of `count` runs in a row holds `index`, to shared memory; begins: [count + 1]. All threads of a block call it
// together.
__device__ inline void find_run(const std::int32_t* begins, int count, int index, int& found) {
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(blockDim.x))
        if (begins[i] <= index && index < begins[i + 1]) found = i;
    __syncthreads();
}

}  // namespace moestro::kernels::cuda
