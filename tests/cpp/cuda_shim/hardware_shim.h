// The words of csrc/kernels/cuda/hardware.cuh for a processor, with the same results to the bit (but for mma_bf16).
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "cuda_runtime.h"

namespace moestro::kernels::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// Compiled with -ffp-contract=off: rounded once.
inline float add(float a, float b) {
    return a + b;
}
inline float sub(float a, float b) {
    return a - b;
}
inline float mul(float a, float b) {
    return a * b;
}
inline float div(float a, float b) {
    return a / b;
}
inline float fma(float a, float b, float c) {
    return std::fma(a, b, c);
}
inline float sqrt(float a) {
    return std::sqrt(a);
}
inline float round_even(float a) {
    return std::nearbyint(a);
}
inline float as_float(std::uint32_t bits) {
    return std::bit_cast<float>(bits);
}
inline std::uint32_t as_bits(float value) {
    return std::bit_cast<std::uint32_t>(value);
}
inline float from_f16(std::uint16_t bits) {
    const std::uint32_t sign = (bits & 0x8000u) << 16, exponent = bits >> 10 & 0x1f, fraction = bits & 0x3ffu;
    if (exponent == 0x1f) return as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent) return as_float(sign | (exponent + 112) << 23 | fraction << 13);
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // exact
    return sign ? -magnitude : magnitude;
}
inline std::uint16_t to_f16(float value) {
    const std::uint32_t bits = as_bits(value), magnitude = bits & 0x7fffffffu;
    const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
    if (magnitude > 0x7f800000u) return 0x7fff;          // as hardware: one NaN
    if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // from halfway between the largest and 2^16 on
    if (magnitude < 0x38800000u)                         // subnormal: in units of 2^-24
        return static_cast<std::uint16_t>(sign |
                                          static_cast<std::uint16_t>(std::nearbyint(as_float(magnitude) * 0x1p24f)));
    const std::uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return static_cast<std::uint16_t>(sign | ((rounded >> 13) - (112u << 10)));
}

inline int dot4(int a, int b, int c) {
    auto sum = static_cast<std::uint32_t>(c);  // wraps
    for (int i = 0; i < 4; ++i)
        sum += static_cast<std::uint32_t>(static_cast<std::int8_t>(a >> 8 * i) * static_cast<std::int8_t>(b >> 8 * i));
    return static_cast<int>(sum);
}

struct MmaPart {
    void* c;
    const std::uint32_t *a, *b;
};

// Where a lane's fragments lie in the matrices: kPacked elements of `a` and `b` to a word, 4 lanes and 2 words across.
template <int kPacked, class Element>
void gather_fragments(void* const* brought, Element (&a)[16][8 * kPacked], Element (&b)[8 * kPacked][8]) {
    for (int lane = 0; lane < 32; ++lane) {
        const auto& part = *static_cast<const MmaPart*>(brought[lane]);
        const int g = lane / 4, t = lane % 4;
        for (int word = 0; word < 4; ++word)
            std::memcpy(&a[g + 8 * (word % 2)][4 * kPacked * (word / 2) + kPacked * t], &part.a[word], 4);
        for (int word = 0; word < 2; ++word) {
            Element column[kPacked];
            std::memcpy(column, &part.b[word], 4);
            for (int i = 0; i < kPacked; ++i) b[4 * kPacked * word + kPacked * t + i][g] = column[i];
        }
    }
}
template <class Sum, class Product>
void add_products(void* const* brought, int depth, const Product& product) {
    for (int lane = 0; lane < 32; ++lane) {
        auto* const c = static_cast<Sum*>(static_cast<const MmaPart*>(brought[lane])->c);
        for (int i = 0; i < 4; ++i)
            for (int k = 0; k < depth; ++k) c[i] = product(lane / 4 + 8 * (i / 2), k, 2 * (lane % 4) + i % 2, c[i]);
    }
}

inline void mma_s8(int (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    MmaPart mine{c, a, b};
    const auto all_together = [](void* const* brought, unsigned) {
        std::int8_t left[16][32], right[32][8];
        gather_fragments<4>(brought, left, right);
        add_products<int>(brought, 32,
                          [&](int row, int k, int col, int sum) { return sum + left[row][k] * right[k][col]; });
    };
    cuda_shim::meet_warp(kAllLanes, all_together, &mine);
}

// Hardware's order of summing is its own: here one fma after the other, k ascending.
inline void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
    MmaPart mine{c, a, b};
    const auto all_together = [](void* const* brought, unsigned) {
        std::uint16_t left[16][16], right[16][8];
        gather_fragments<2>(brought, left, right);
        const auto wide = [](std::uint16_t bits) { return as_float(std::uint32_t{bits} << 16); };
        add_products<float>(brought, 16, [&](int row, int k, int col, float sum) {
            return fma(wide(left[row][k]), wide(right[k][col]), sum);
        });
    };
    cuda_shim::meet_warp(kAllLanes, all_together, &mine);
}

inline uint2 stream_load(const uint2* from) {
    return *from;
}
inline uint4 stream_load(const uint4* from) {
    return *from;
}
inline std::uint32_t stream_load(const std::uint32_t* from) {
    return *from;
}

template <class T>
T load_fresh(const T* from) {
    return *from;
}

inline void copy_async(void* to_shared, const void* from) {
    cuda_shim::later_copy(to_shared, from, 16);
}
inline void copy_commit() {
    cuda_shim::later_commit();
}
template <int kStillUnderWay>
inline void copy_wait() {
    cuda_shim::later_wait(kStillUnderWay);
}

// Who reads it again waits for others, so they run first.
inline std::uint32_t load_mark(const std::uint32_t* mark) {
    cuda_shim::let_others(mark);
    return *mark;
}

inline std::byte* shared_memory() {
    return cuda_shim::dynamic_shared();
}

}  // namespace moestro::kernels::cuda
