// Stands before the compiler's header on the include path of one test object: the AVX-512 unit built on emulated
// intrinsics, so that its arithmetic is checked on CPUs without AVX-512. SIMDe emulates most of them; those it lacks
// follow, each as its definition in the processor manual, over AVX2 halves or plain loops.
#pragma once

#include_next <immintrin.h>

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>

#include <cmath>
#include <cstdint>
#include <cstring>

namespace emulated {

template <class To, class From>
inline To bits_of(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

struct FloatHalves {
    __m256 low, high;
};
struct IntHalves {
    __m256i low, high;
};
struct Floats {
    float at[16];
};
struct Ints {
    std::int32_t at[16];
};

inline __m512i cvtepu16_epi32(__m256i v) {
    const IntHalves halves{_mm256_cvtepu16_epi32(_mm256_castsi256_si128(v)),
                           _mm256_cvtepu16_epi32(_mm256_extracti128_si256(v, 1))};
    return bits_of<__m512i>(halves);
}
inline __m512 cvtph_ps(__m256i v) {
    const FloatHalves halves{_mm256_cvtph_ps(_mm256_castsi256_si128(v)),
                             _mm256_cvtph_ps(_mm256_extracti128_si256(v, 1))};
    return bits_of<__m512>(halves);
}
inline __m256i cvtps_ph(__m512 v, int) {  // always to nearest even here
    const auto halves = bits_of<FloatHalves>(v);
    return _mm256_set_m128i(_mm256_cvtps_ph(halves.high, _MM_FROUND_TO_NEAREST_INT),
                            _mm256_cvtps_ph(halves.low, _MM_FROUND_TO_NEAREST_INT));
}
inline __m512i cvtps_epi32(__m512 v) {
    const auto halves = bits_of<FloatHalves>(v);
    return bits_of<__m512i>(IntHalves{_mm256_cvtps_epi32(halves.low), _mm256_cvtps_epi32(halves.high)});
}
inline __m512 cvtepi32_ps(__m512i v) {
    const auto halves = bits_of<IntHalves>(v);
    return bits_of<__m512>(FloatHalves{_mm256_cvtepi32_ps(halves.low), _mm256_cvtepi32_ps(halves.high)});
}
inline __m512i srai_epi32(__m512i v, int count) {
    const auto halves = bits_of<IntHalves>(v);
    return bits_of<__m512i>(IntHalves{_mm256_srai_epi32(halves.low, count), _mm256_srai_epi32(halves.high, count)});
}
template <class Narrow, class Out>
inline Out truncate(__m512i v) {
    const auto wide = bits_of<Ints>(v);
    Narrow narrow[16];
    for (int i = 0; i < 16; ++i) narrow[i] = static_cast<Narrow>(wide.at[i]);
    Out out;
    std::memcpy(&out, narrow, sizeof out);
    return out;
}
inline __m512 maskz_loadu_ps(__mmask16 mask, const float* from) {
    Floats v{};
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) v.at[i] = from[i];
    return bits_of<__m512>(v);
}
inline void mask_storeu_ps(float* to, __mmask16 mask, __m512 value) {
    const auto v = bits_of<Floats>(value);
    for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) to[i] = v.at[i];
}
inline float cvtss_f32(__m512 v) {
    return bits_of<Floats>(v).at[0];
}
inline __m256 extractf32x8_ps(__m512 v, int which) {
    const auto halves = bits_of<FloatHalves>(v);
    return which ? halves.high : halves.low;
}
inline __m256i extracti32x8_epi32(__m512i v, int which) {
    const auto halves = bits_of<IntHalves>(v);
    return which ? halves.high : halves.low;
}

// Two of AVX512_BF16, too large to be inlined and so of internal linkage. They round to nearest even and take
// subnormals, in and out, as zeros, whatever MXCSR says.
static inline float flush(float v) {
    return std::fabs(v) < 0x1p-126f ? std::copysign(0.0f, v) : v;
}
struct Halves {
    std::uint16_t at[32];
};
static inline float widened(std::uint16_t half) {
    return flush(bits_of<float>(static_cast<std::uint32_t>(half) << 16));
}
template <class Pairs>
static inline __m512 dpbf16_ps(__m512 sums, Pairs a, Pairs b) {
    auto sum = bits_of<Floats>(sums);
    const auto x = bits_of<Halves>(a), y = bits_of<Halves>(b);
    for (int i = 0; i < 16; ++i)
        for (int half : {2 * i + 1, 2 * i})
            sum.at[i] = flush(__builtin_fmaf(widened(x.at[half]), widened(y.at[half]), flush(sum.at[i])));
    return bits_of<__m512>(sum);
}
static inline std::uint16_t narrowed(float v) {
    const auto bits = bits_of<std::uint32_t>(flush(v));
    if (v != v) return static_cast<std::uint16_t>(bits >> 16 | 0x40u);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
static inline Halves cvtne2ps_pbh(__m512 high, __m512 low) {
    const auto a = bits_of<Floats>(low), b = bits_of<Floats>(high);
    Halves halves;
    for (int i = 0; i < 16; ++i) halves.at[i] = narrowed(a.at[i]);
    for (int i = 0; i < 16; ++i) halves.at[16 + i] = narrowed(b.at[i]);
    return halves;
}

}  // namespace emulated

#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtph_ps emulated::cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph emulated::cvtps_ph
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_srai_epi32 emulated::srai_epi32
#define _mm512_cvtepi32_epi16(v) (emulated::truncate<std::int16_t, __m256i>(v))
#define _mm512_cvtepi32_epi8(v) (emulated::truncate<std::int8_t, __m128i>(v))
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_cvtss_f32 emulated::cvtss_f32
#undef _mm512_extractf32x8_ps
#define _mm512_extractf32x8_ps emulated::extractf32x8_ps
#undef _mm512_extracti32x8_epi32
#define _mm512_extracti32x8_epi32 emulated::extracti32x8_epi32
#undef _mm512_dpbf16_ps
#define _mm512_dpbf16_ps emulated::dpbf16_ps
#define _mm512_cvtne2ps_pbh emulated::cvtne2ps_pbh
