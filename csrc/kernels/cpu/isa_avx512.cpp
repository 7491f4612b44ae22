// AVX-512 (F, BW, DQ, VL) with VNNI: 16 lanes are one register.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own AVX-512 headers: undefined pass-through operands
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include <type_traits>

#include "kernels/table.h"
#include "quant/convert.h"

namespace moestro::kernels {

namespace {

constexpr int kFloatRows = 8;      // rows that share a load of an f32 weight: 16 of the 32 registers accumulate
constexpr int kHalfRows = 8;       // and of a bf16 weight
constexpr int kHalfPanelRows = 0;  // many rows take whole panels too: their accumulators find room
// Two panels together halve what many rows load of their inputs. Few rows are fed fastest by one stream of memory.
constexpr int kPairsFrom = 9, kPairsTo = 1 << 30;
constexpr bool kFloatPairs = false;  // float panels are two vectors wide already
constexpr int kKeyVectors = 4;       // vectors of keys scored together
constexpr int kValueVectors = 4;     // vectors of output elements summed together
constexpr int kQueryRun = 6;         // queries that share a load of a key or value

using F32 = __m512;
struct I32 {  // a type of its own: __m512i alone would not say what its lanes are
    __m512i v;
};

inline __mmask16 mask_of(int count) {  // the first `count` of 16 lanes
    return static_cast<__mmask16>((1u << count) - 1);
}

inline F32 splat(float v) {
    return _mm512_set1_ps(v);
}
inline F32 load(const float* from) {
    return _mm512_loadu_ps(from);
}
inline __m256i load_halves(const void* from) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(from));
}
inline F32 load(const quant::Bf16* from) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_halves(from)), 16));
}
inline F32 load(const quant::F16* from) {
    return _mm512_cvtph_ps(load_halves(from));
}
inline F32 load_part(const float* from, int count) {
    return _mm512_maskz_loadu_ps(mask_of(count), from);
}
template <class T>
inline F32 load_part(const T* from, int count) {
    alignas(32) T padded[16] = {};
    __builtin_memcpy(padded, from, static_cast<std::size_t>(count) * sizeof(T));
    return load(padded);
}
inline void store(float* to, F32 v) {
    _mm512_storeu_ps(to, v);
}
inline void store_part(float* to, F32 v, int count) {
    _mm512_mask_storeu_ps(to, mask_of(count), v);
}

inline __m256i narrow_bf16(F32 v) {  // round to nearest even; a NaN becomes the quiet NaN with its sign
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(0x40));
    const __mmask16 unordered = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, unordered, quiet));
}
inline void store_halves(void* to, __m256i v, int count) {
    alignas(32) std::uint16_t halves[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(halves), v);
    __builtin_memcpy(to, halves, static_cast<std::size_t>(count) * 2);
}
inline void store_narrow(float* to, F32 v, int count) {
    store_part(to, v, count);
}
inline void store_narrow(quant::Bf16* to, F32 v, int count) {
    store_halves(to, narrow_bf16(v), count);
}
inline void store_narrow(quant::F16* to, F32 v, int count) {
    store_halves(to, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC), count);
}

inline F32 add(F32 a, F32 b) {
    return _mm512_add_ps(a, b);
}
inline F32 sub(F32 a, F32 b) {
    return _mm512_sub_ps(a, b);
}
inline F32 mul(F32 a, F32 b) {
    return _mm512_mul_ps(a, b);
}
inline F32 div(F32 a, F32 b) {
    return _mm512_div_ps(a, b);
}
inline F32 fma(F32 a, F32 b, F32 c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline F32 negate(F32 a) {
    return _mm512_xor_ps(a, _mm512_set1_ps(-0.0f));
}
inline F32 max(F32 a, F32 b) {
    return _mm512_max_ps(a, b);
}
inline F32 min(F32 a, F32 b) {
    return _mm512_min_ps(a, b);
}
inline F32 zero_at_minus_infinity(F32 x, F32 v) {
    const __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-__builtin_inff()), _CMP_NEQ_UQ);
    return _mm512_maskz_mov_ps(keep, v);
}
inline F32 where_below(F32 x, F32 bound, F32 below, F32 others) {
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, bound, _CMP_LT_OQ), others, below);
}
inline float first(F32 v) {
    return _mm512_cvtss_f32(v);
}
inline __m256 low_half(F32 v) {
    return _mm512_castps512_ps256(v);
}
inline __m256 high_half(F32 v) {
    return _mm512_extractf32x8_ps(v, 1);
}
inline float reduce_add(F32 v) {  // lane i += lane i + 8, then + 4, + 2, + 1
    const __m256 eight = _mm256_add_ps(low_half(v), high_half(v));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(F32 v) {
    const __m256 eight = _mm256_max_ps(low_half(v), high_half(v));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline I32 to_int(F32 v) {  // to nearest even, by the default MXCSR
    return {_mm512_cvtps_epi32(v)};
}
inline F32 to_float(I32 a) {
    return _mm512_cvtepi32_ps(a.v);
}
inline I32 add(I32 a, I32 b) {
    return {_mm512_add_epi32(a.v, b.v)};
}
inline I32 sub(I32 a, I32 b) {
    return {_mm512_sub_epi32(a.v, b.v)};
}
inline I32 max(I32 a, I32 b) {
    return {_mm512_max_epi32(a.v, b.v)};
}
inline I32 half_floor(I32 a) {
    return {_mm512_srai_epi32(a.v, 1)};
}
inline F32 power_of_two(I32 a) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(a.v, _mm512_set1_epi32(127)), 23));
}
inline I32 magnitude_bits(F32 v) {
    return {_mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff))};
}
inline std::int32_t reduce_max(I32 a) {
    const __m256i eight = _mm256_max_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti32x8_epi32(a.v, 1));
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline std::int32_t reduce_add(I32 a) {
    const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti32x8_epi32(a.v, 1));
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline void store_codes(std::int8_t* to, I32 low, I32 high) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(low.v));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 16), _mm512_cvtepi32_epi8(high.v));
}

// Dots of a group's codes. A quad is 64 bytes: 4 consecutive k of 16 rows. vpdpbusd multiplies unsigned by signed bytes
// and adds without saturating, so weights are offset to unsigned, and the start of the sum takes the offset back as a
// multiple of the sum of x: exact, because integers.
inline __m512i splat_4(const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}
inline __m512i load_quad(const std::byte* at) {
    return _mm512_load_si512(reinterpret_cast<const __m512i*>(at));
}

struct Q8 {
    static constexpr int kRows[] = {8, 6};  // that share a load of one panel, of two
    static constexpr int kGroupBytes = 512, kQuads = 8;
    struct Quad {
        __m512i codes;  // + 128
    };
    using Dot = I32;
    using Many = Q8;
    static Quad load(const std::byte* at) {
        return {_mm512_xor_si512(load_quad(at), _mm512_set1_epi8(static_cast<char>(0x80)))};
    }
    static Dot start(std::int32_t x_sum) { return {_mm512_set1_epi32(-128 * x_sum)}; }
    static Dot dot(Dot sum, const Quad& w, const std::int8_t* x) {
        return {_mm512_dpbusd_epi32(sum.v, w.codes, splat_4(x))};
    }
    static I32 finish(Dot sum) { return sum; }
};

struct Q4 {
    static constexpr int kRows[] = {8, 6};  // that share a load of one panel, of two
    static constexpr int kGroupBytes = 256, kQuads = 4;
    struct Quad {
        __m512i low, high;  // codes + 8 of the first 16 k and of the last 16 k
    };
    using Dot = I32;
    using Many = Q4;
    static Quad load(const std::byte* at) {
        const __m512i both = load_quad(at), mask = _mm512_set1_epi8(15);
        return {_mm512_and_si512(both, mask), _mm512_and_si512(_mm512_srli_epi16(both, 4), mask)};
    }
    static Dot start(std::int32_t x_sum) { return {_mm512_set1_epi32(-8 * x_sum)}; }
    static Dot dot(Dot sum, const Quad& w, const std::int8_t* x) {
        return {_mm512_dpbusd_epi32(_mm512_dpbusd_epi32(sum.v, w.low, splat_4(x)), w.high, splat_4(x + 16))};
    }
    static I32 finish(Dot sum) { return sum; }
};

#include "kernels/cpu/body/all.inl"

}  // namespace

const Table& avx512_table() {
    return kTable;
}

}  // namespace moestro::kernels
