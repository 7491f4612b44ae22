// The functions of docs/numerics.md on a GPU, one value at a time.
#pragma once

#include "kernels/cuda/hardware.cuh"
#include "kernels/ops.h"

namespace moestro::kernels::cuda {

__device__ __forceinline__ bool is_finite(float x) {
    return (as_bits(x) & 0x7f800000u) != 0x7f800000u;
}

__device__ __forceinline__ float from_bf16(std::uint32_t bits) {
    return as_float(bits << 16);
}
// To nearest even. Of numbers; NaN stays NaN.
__device__ __forceinline__ std::uint16_t to_bf16(float value) {
    const std::uint32_t bits = as_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Scales of one kind, `index` of an array.
__device__ __forceinline__ float scale_at(const void* scales, int index, quant::ScaleType type) {
    if (type == quant::ScaleType::f16) return from_f16(static_cast<const std::uint16_t*>(scales)[index]);
    if (type == quant::ScaleType::bf16) return from_bf16(static_cast<const std::uint16_t*>(scales)[index]);
    return static_cast<const float*>(scales)[index];
}

__device__ inline float exp(float x) {
    if (x == as_float(0xff800000u)) return 0.0f;
    if (x != x) return x;
    const float bounded = x < -104.0f ? -104.0f : x > 89.0f ? 89.0f : x;
    const float n = round_even(mul(bounded, 1.44269504f));
    float r = fma(n, -0.693359375f, bounded);
    r = fma(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fma(p, r, 1.3981999507e-3f);
    p = fma(p, r, 8.3334519073e-3f);
    p = fma(p, r, 4.1665795894e-2f);
    p = fma(p, r, 1.6666665459e-1f);
    p = fma(p, r, 5.0000001201e-1f);
    p = add(fma(p, mul(r, r), r), 1.0f);
    const int whole = static_cast<int>(n), half = whole >> 1;  // rounded down
    return mul(mul(p, as_float(static_cast<std::uint32_t>(half + 127) << 23)),
               as_float(static_cast<std::uint32_t>(whole - half + 127) << 23));
}

__device__ inline float sigmoid(float x) {
    return div(1.0f, add(1.0f, exp(sub(0.0f, x))));
}

__device__ inline float tanh(float x) {
    const float size = as_float(as_bits(x) & 0x7fffffffu);
    if (size < 0.625f) {
        const float z = mul(x, x);
        float p = -5.70498872745e-3f;
        p = fma(p, z, 2.06390887954e-2f);
        p = fma(p, z, -5.37397155531e-2f);
        p = fma(p, z, 1.33314422036e-1f);
        p = fma(p, z, -3.33332819422e-1f);
        return fma(mul(p, z), x, x);
    }
    const float e = exp(mul(-2.0f, size));
    const float y = div(sub(1.0f, e), add(1.0f, e));
    return as_float(as_bits(y) ^ (as_bits(x) & 0x80000000u));
}

// The second operand where they do not compare, as the processor's vectors do.
__device__ __forceinline__ float larger(float a, float b) {
    return a > b ? a : b;
}
__device__ __forceinline__ float smaller(float a, float b) {
    return a < b ? a : b;
}
__device__ __forceinline__ float within(float x, float bound) {
    return larger(-bound, smaller(bound, x));
}
__device__ inline float softcap(float x, float cap) {
    return mul(cap, tanh(div(x, cap)));
}

// The kind is a constant of the launch: the branch is the same for all threads.
__device__ inline float gate(GateKind kind, float g, float u) {
    if (kind == GateKind::silu) return mul(div(g, add(1.0f, exp(sub(0.0f, g)))), u);
    if (kind == GateKind::gelu_tanh) {
        const float z = mul(g, fma(mul(g, g), 0.0713548162726f, 1.59576912161f));
        return mul(div(g, add(1.0f, exp(sub(0.0f, z)))), u);
    }
    const float a = smaller(7.0f, g), b = within(u, 7.0f);
    return mul(add(b, 1.0f), div(a, add(1.0f, exp(mul(-1.702f, a)))));
}

}  // namespace moestro::kernels::cuda
