// AVX2 with FMA and F16C: 16 lanes are two 256-bit registers.
#include <immintrin.h>

#include <type_traits>

#include "kernels/table.h"
#include "quant/convert.h"

namespace moestro::kernels {

namespace {

constexpr int kFloatRows = 3;      // rows that share a load of an f32 weight: 12 of the 16 registers accumulate
constexpr int kHalfRows = 2;       // and of a bf16 weight: widened, those need registers of their own
constexpr int kHalfPanelRows = 6;  // rows that share a load of half a panel, where there are many
// Two panels together are two streams of memory, which feed one row faster. More rows find no registers for both.
constexpr int kPairsFrom = 1, kPairsTo = 1;
constexpr bool kFloatPairs = true;  // whether panels of floats, too
constexpr int kKeyVectors = 1;      // vectors of keys scored together
constexpr int kValueVectors = 1;    // vectors of output elements summed together
constexpr int kQueryRun = 6;        // queries that share a load of a key or value

struct F32 {
    __m256 low, high;
};
struct I32 {
    __m256i low, high;
};

inline __m256i mask_of(int count) {  // the first `count` of 8 lanes
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

inline F32 splat(float v) {
    return {_mm256_set1_ps(v), _mm256_set1_ps(v)};
}
inline F32 load(const float* from) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
inline __m256 widen_bf16(__m128i v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}
inline __m128i load_8_halves(const void* from) {
    return _mm_loadu_si128(static_cast<const __m128i*>(from));
}
inline F32 load(const quant::Bf16* from) {
    return {widen_bf16(load_8_halves(from)), widen_bf16(load_8_halves(from + 8))};
}
inline F32 load(const quant::F16* from) {
    return {_mm256_cvtph_ps(load_8_halves(from)), _mm256_cvtph_ps(load_8_halves(from + 8))};
}
// Even elements low, odd ones high: one load and two instructions, where ascending order takes two and four.
inline F32 load_mixed(const quant::Bf16* from) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
            _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(static_cast<int>(0xffff0000u))))};
}
inline F32 unmix(F32 v, const quant::Bf16*) {
    const __m256 a = _mm256_unpacklo_ps(v.low, v.high), b = _mm256_unpackhi_ps(v.low, v.high);
    return {_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)};
}
inline F32 mix(F32 v, const quant::Bf16*) {
    const __m256 a = _mm256_permute2f128_ps(v.low, v.high, 0x20), b = _mm256_permute2f128_ps(v.low, v.high, 0x31);
    return {_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd)};
}
inline F32 load_part(const float* from, int count) {
    return {_mm256_maskload_ps(from, mask_of(count)),
            count > 8 ? _mm256_maskload_ps(from + 8, mask_of(count - 8)) : _mm256_setzero_ps()};
}
template <class T>
inline F32 load_part(const T* from, int count) {
    alignas(32) T padded[16] = {};
    __builtin_memcpy(padded, from, static_cast<std::size_t>(count) * sizeof(T));
    return load(padded);
}
inline void store(float* to, F32 v) {
    _mm256_storeu_ps(to, v.low);
    _mm256_storeu_ps(to + 8, v.high);
}
inline void store_part(float* to, F32 v, int count) {
    _mm256_maskstore_ps(to, mask_of(count), v.low);
    if (count > 8) _mm256_maskstore_ps(to + 8, mask_of(count - 8), v.high);
}

inline __m128i narrow_bf16(__m256 v) {  // round to nearest even; a NaN becomes the quiet NaN with its sign
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
    const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
    const __m256 unordered = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(unordered));
    return _mm_packus_epi32(_mm256_castsi256_si128(chosen), _mm256_extracti128_si256(chosen, 1));
}
inline void store_narrow(float* to, F32 v, int count) {
    if (count == 16) return store(to, v);
    store_part(to, v, count);
}
inline void store_halves(void* to, __m128i low, __m128i high, int count) {
    alignas(16) std::uint16_t halves[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(halves), low);
    _mm_store_si128(reinterpret_cast<__m128i*>(halves + 8), high);
    __builtin_memcpy(to, halves, static_cast<std::size_t>(count) * 2);
}
inline void store_narrow(quant::Bf16* to, F32 v, int count) {
    store_halves(to, narrow_bf16(v.low), narrow_bf16(v.high), count);
}
inline void store_narrow(quant::F16* to, F32 v, int count) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT;
    store_halves(to, _mm256_cvtps_ph(v.low, nearest), _mm256_cvtps_ph(v.high, nearest), count);
}

inline F32 add(F32 a, F32 b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline F32 sub(F32 a, F32 b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline F32 mul(F32 a, F32 b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline F32 div(F32 a, F32 b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline F32 fma(F32 a, F32 b, F32 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline F32 negate(F32 a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_xor_ps(a.low, sign), _mm256_xor_ps(a.high, sign)};
}
inline F32 max(F32 a, F32 b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline F32 min(F32 a, F32 b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline F32 zero_at_minus_infinity(F32 x, F32 v) {
    const __m256 bound = _mm256_set1_ps(-__builtin_inff());
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.low, bound, _CMP_EQ_OQ), v.low),
            _mm256_andnot_ps(_mm256_cmp_ps(x.high, bound, _CMP_EQ_OQ), v.high)};
}
inline F32 where_below(F32 x, F32 bound, F32 below, F32 others) {
    return {_mm256_blendv_ps(others.low, below.low, _mm256_cmp_ps(x.low, bound.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(others.high, below.high, _mm256_cmp_ps(x.high, bound.high, _CMP_LT_OQ))};
}
inline float first(F32 v) {
    return _mm256_cvtss_f32(v.low);
}
inline float reduce_add(F32 v) {  // lane i += lane i + 8, then + 4, + 2, + 1
    const __m256 eight = _mm256_add_ps(v.low, v.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float reduce_max(F32 v) {
    const __m256 eight = _mm256_max_ps(v.low, v.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

inline I32 to_int(F32 v) {  // to nearest even, by the default MXCSR
    return {_mm256_cvtps_epi32(v.low), _mm256_cvtps_epi32(v.high)};
}
inline F32 to_float(I32 v) {
    return {_mm256_cvtepi32_ps(v.low), _mm256_cvtepi32_ps(v.high)};
}
inline I32 add(I32 a, I32 b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline I32 sub(I32 a, I32 b) {
    return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
inline I32 max(I32 a, I32 b) {
    return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)};
}
inline I32 half_floor(I32 v) {
    return {_mm256_srai_epi32(v.low, 1), _mm256_srai_epi32(v.high, 1)};
}
inline __m256 power_of_two(__m256i v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(127)), 23));
}
inline F32 power_of_two(I32 v) {
    return {power_of_two(v.low), power_of_two(v.high)};
}
inline I32 magnitude_bits(F32 v) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(_mm256_castps_si256(v.low), mask), _mm256_and_si256(_mm256_castps_si256(v.high), mask)};
}
inline std::int32_t reduce_max(I32 v) {
    const __m256i eight = _mm256_max_epi32(v.low, v.high);
    const __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline std::int32_t reduce_add(I32 v) {
    const __m256i eight = _mm256_add_epi32(v.low, v.high);
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
    const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
inline void store_codes(std::int8_t* to, I32 low, I32 high) {
    const __m256i first_16 = _mm256_packs_epi32(low.low, low.high), last_16 = _mm256_packs_epi32(high.low, high.high);
    const __m256i mixed = _mm256_packs_epi16(first_16, last_16);  // dwords hold k 0, 8, 16, 24, 4, 12, 20, 28
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permutevar8x32_epi32(mixed, order));
}

// Dots of a group's codes. A quad is 64 bytes: 4 consecutive k of 16 rows.
inline __m256i splat_4(const std::int8_t* x) {
    std::int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}
// Keeps the compiler from turning a chain of sums into a tree, whose leaves would not find registers.
inline __m256i pinned(__m256i v) {
    asm("" : "+x"(v));
    return v;
}
inline void store_bytes(std::byte* at, __m256i v) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(at), v);
}
inline __m256i load_bytes(const std::byte* at) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
}

// maddubs wants one unsigned operand and saturates at 16 bits: |w| <= 127 times x with w's sign keeps a pair of
// products within 2 * 127 * 127 = 32258.
struct Q8 {
    static constexpr int kRows[] = {3, 1};  // that share a load of one panel, of two
    static constexpr int kGroupBytes = 512, kQuads = 8;
    struct Quad {
        __m256i low, high, low_magnitude, high_magnitude;
    };
    using Dot = I32;
    using Many = Q8;
    static Quad load(const std::byte* at) {
        const __m256i low = load_bytes(at), high = load_bytes(at + 32);
        return {low, high, _mm256_abs_epi8(low), _mm256_abs_epi8(high)};
    }
    static Dot start(std::int32_t) { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
    static __m256i four(__m256i magnitude, __m256i w, __m256i x) {
        return _mm256_madd_epi16(_mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(x, w)), _mm256_set1_epi16(1));
    }
    static Dot dot(Dot sum, const Quad& w, const std::int8_t* x) {
        const __m256i v = splat_4(x);
        return {pinned(_mm256_add_epi32(sum.low, four(w.low_magnitude, w.low, v))),
                pinned(_mm256_add_epi32(sum.high, four(w.high_magnitude, w.high, v)))};
    }
    static I32 finish(Dot sum) { return sum; }
};

// Codes + 8 lie in 0..15: all 16 products that meet in a 16-bit sum of a group fit it (16 * 15 * 127 = 30480), so
// widening waits for the end of the group. The offset, 8 times the sum of x, starts one of the two sums of an output
// below zero: together they are at most 32 * 8 * 127 = 32512, and what lies between may wrap.
struct NibbleDot {
    __m256i low, high;  // 16-bit, of rows 0-7 and 8-15

    static NibbleDot start(std::int32_t x_sum) {
        const __m256i offset = _mm256_set1_epi32(-8 * x_sum & 0xffff);
        return {offset, offset};
    }
    static __m256i plus(__m256i sum, __m256i w, __m256i x) {
        return pinned(_mm256_add_epi16(sum, _mm256_maddubs_epi16(w, x)));
    }
    static I32 finish(NibbleDot sum) {
        const __m256i ones = _mm256_set1_epi16(1);
        return {_mm256_madd_epi16(sum.low, ones), _mm256_madd_epi16(sum.high, ones)};
    }
};

// A group with its codes + 8 spread to bytes: 4 consecutive k of 16 rows every 64 bytes.
struct Q4Bytes {
    static constexpr int kRows[] = {4, 1};  // that share a load of one panel, of two
    static constexpr int kGroupBytes = 512, kQuads = 8;
    struct Quad {
        __m256i low, high;
    };
    using Dot = NibbleDot;
    static void unpack(const std::byte* group, std::byte* to) {
        const __m256i mask = _mm256_set1_epi8(15);
        for (int at = 0; at < kGroupBytes / 2; at += 32) {
            const __m256i both = load_bytes(group + at);
            store_bytes(to + at, _mm256_and_si256(both, mask));
            store_bytes(to + kGroupBytes / 2 + at, _mm256_and_si256(_mm256_srli_epi16(both, 4), mask));
        }
    }
    static Quad load(const std::byte* at) { return {load_bytes(at), load_bytes(at + 32)}; }
    static Dot start(std::int32_t x_sum) { return NibbleDot::start(x_sum); }
    static Dot dot(Dot sum, const Quad& w, const std::int8_t* x) {
        const __m256i v = splat_4(x);
        return {Dot::plus(sum.low, w.low, v), Dot::plus(sum.high, w.high, v)};
    }
    static I32 finish(Dot sum) { return Dot::finish(sum); }
};

struct Q4 {
    static constexpr int kRows[] = {4, 1};  // that share a load of one panel, of two
    static constexpr int kGroupBytes = 256, kQuads = 4;
    struct Quad {
        __m256i low_k_low, low_k_high, high_k_low, high_k_high;  // first 16 k | last 16 k, rows 0-7 | rows 8-15
    };
    using Dot = NibbleDot;
    using Many = Q4Bytes;
    static Quad load(const std::byte* at) {
        const __m256i low = load_bytes(at), high = load_bytes(at + 32), mask = _mm256_set1_epi8(15);
        return {_mm256_and_si256(low, mask), _mm256_and_si256(high, mask),
                _mm256_and_si256(_mm256_srli_epi16(low, 4), mask), _mm256_and_si256(_mm256_srli_epi16(high, 4), mask)};
    }
    static Dot start(std::int32_t x_sum) { return Dot::start(x_sum); }
    static Dot dot(Dot sum, const Quad& w, const std::int8_t* x) {
        const __m256i a = splat_4(x), b = splat_4(x + 16);
        return {Dot::plus(Dot::plus(sum.low, w.low_k_low, a), w.high_k_low, b),
                Dot::plus(Dot::plus(sum.high, w.low_k_high, a), w.high_k_high, b)};
    }
    static I32 finish(Dot sum) { return Dot::finish(sum); }
};

#include "kernels/cpu/body/all.inl"

}  // namespace

const Table& avx2_table() {
    return kTable;
}

}  // namespace moestro::kernels
