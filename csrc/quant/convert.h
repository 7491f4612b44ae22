// Exact widening and rounding between binary32 and the two 16-bit float types, in integer arithmetic: they mean the
// same on every instruction set and under every MXCSR. Internal linkage on purpose: units compiled for a newer
// instruction set include this, and must not export code that older CPUs could end up calling.
#pragma once

#include <cstdint>

namespace moestro::quant {

struct Bf16 {
    std::uint16_t bits;
};
struct F16 {
    std::uint16_t bits;
};

[[maybe_unused]] static inline float widen(Bf16 value) {
    return __builtin_bit_cast(float, static_cast<std::uint32_t>(value.bits) << 16);
}

[[maybe_unused]] static inline float widen(F16 value) {
    const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x8000u) << 16;
    const std::uint32_t exponent = (value.bits >> 10) & 31u;
    const std::uint32_t fraction = value.bits & 0x3ffu;
    if (exponent == 31) return __builtin_bit_cast(float, sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return __builtin_bit_cast(float, sign | (exponent + 112) << 23 | fraction << 13);
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;  // exact: at most 10 significant bits
    return __builtin_bit_cast(float, sign | __builtin_bit_cast(std::uint32_t, magnitude));
}

// Round to nearest even; NaN stays NaN.
[[maybe_unused]] static inline Bf16 to_bf16(float value) {
    const auto bits = __builtin_bit_cast(std::uint32_t, value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>(bits >> 16 | 0x40u)};
    return {static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

// Round to nearest even, subnormals included; 65520 and above become infinity; NaN stays NaN.
[[maybe_unused]] static inline F16 to_f16(float value) {
    const auto bits = __builtin_bit_cast(std::uint32_t, value);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x1ffu))};
    if (magnitude >= 0x477ff000u) return {static_cast<std::uint16_t>(sign | 0x7c00u)};
    if (magnitude >= 0x38800000u) {
        const std::uint32_t rebased = magnitude - 0x38000000u;
        return {static_cast<std::uint16_t>(sign | (rebased + 0xfffu + ((rebased >> 13) & 1u)) >> 13)};
    }
    if (magnitude < 0x33000000u) return {static_cast<std::uint16_t>(sign)};  // below 2^-25
    const std::uint32_t shift = 126 - (magnitude >> 23);                     // 14..24: to units of 2^-24
    const std::uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    const std::uint32_t kept = significand >> shift;
    const std::uint32_t rest = significand & ((1u << shift) - 1), half = 1u << (shift - 1);
    const bool up = rest > half || (rest == half && (kept & 1u));
    return {static_cast<std::uint16_t>(sign | (kept + (up ? 1u : 0u)))};
}

}  // namespace moestro::quant
