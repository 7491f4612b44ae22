#include "quant/quantise.h"

#include <emmintrin.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/convert.h"

namespace moestro::quant {

namespace {

// codes = clamp(rne(quotient(w)), low, high). Clamping before rounding equals clamping after it, because the bounds are
// integers; it also keeps quotients by tiny scales inside the range of int32.
template <class Quotient>
void round_quotients(const float* weights, Quotient quotient, float low, float high, std::int8_t* codes) {
    const __m128 least = _mm_set1_ps(low), most = _mm_set1_ps(high);
    const auto four = [&](int k) {
        const __m128 clamped = _mm_min_ps(_mm_max_ps(quotient(_mm_loadu_ps(weights + k)), least), most);
        return _mm_cvtps_epi32(clamped);  // to nearest even, by the default MXCSR
    };
    for (int k = 0; k < kGroup; k += 16) {
        const __m128i first = _mm_packs_epi32(four(k), four(k + 4)), last = _mm_packs_epi32(four(k + 8), four(k + 12));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + k), _mm_packs_epi16(first, last));
    }
}

// The 17 candidates are lanes: each sums its own error over k in order, whatever the vector width. Padded to whole
// vectors with lanes that never win. Packing q4 spends its time here, so there is no division and no double.
constexpr int kCandidates = 17;
constexpr int kVectors = 5;

struct Candidates {
    __m128 scale[kVectors];
    __m128 inverse[kVectors];  // 0 where the candidate is skipped
    __m128 error[kVectors];
};

float lane(const __m128* vectors, int i) {
    float values[4];
    _mm_storeu_ps(values, vectors[i / 4]);
    return values[i % 4];
}

Candidates candidates_of(float extreme, ScaleType type) {
    float scale[4 * kVectors] = {}, inverse[4 * kVectors] = {};
    for (int i = 0; i < kCandidates; ++i) {
        scale[i] = round_scale(extreme / (-8.0f - static_cast<float>(i - 8) / 8.0f), type);
        const float reciprocal = 1.0f / scale[i];
        if (std::isfinite(scale[i]) && std::isfinite(reciprocal)) inverse[i] = reciprocal;
    }
    Candidates all;
    for (int v = 0; v < kVectors; ++v) {
        all.scale[v] = _mm_loadu_ps(scale + 4 * v);
        all.inverse[v] = _mm_loadu_ps(inverse + 4 * v);
        all.error[v] = _mm_setzero_ps();
    }
    return all;
}

void add_errors(float weight, Candidates& all) {
    const __m128 w = _mm_set1_ps(weight), low = _mm_set1_ps(-8.0f), high = _mm_set1_ps(7.0f);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
        const __m128 quotient = _mm_min_ps(_mm_max_ps(_mm_mul_ps(w, all.inverse[v]), low), high);
        const __m128 code = _mm_cvtepi32_ps(_mm_cvtps_epi32(quotient));  // to nearest even, by the default MXCSR
        const __m128 difference = _mm_sub_ps(w, _mm_mul_ps(all.scale[v], code));
        all.error[v] = _mm_add_ps(all.error[v], _mm_mul_ps(difference, difference));
    }
}

// The inverse of the best candidate's scale, and that scale; zeros when every candidate is skipped.
struct Q4Scale {
    float scale = 0, inverse = 0;
};

Q4Scale best_q4_scale(const float* weights, float extreme, ScaleType type) {
    Candidates all = candidates_of(extreme, type);
    for (int k = 0; k < kGroup; ++k) add_errors(weights[k], all);
    Q4Scale best;
    float least = std::numeric_limits<float>::infinity();
    for (int i = 0; i < kCandidates; ++i) {
        const float inverse = lane(all.inverse, i), error = lane(all.error, i);
        if (inverse == 0 || !(error < least)) continue;
        least = error;
        best = {lane(all.scale, i), inverse};
    }
    return best;
}

}  // namespace

float round_scale(float scale, ScaleType type) {
    switch (type) {
        case ScaleType::f16:
            return widen(to_f16(scale));
        case ScaleType::bf16:
            return widen(to_bf16(scale));
        default:
            return scale;
    }
}

std::uint32_t magnitude_bits(const float* weights) {
    std::int32_t largest = 0;  // magnitudes are non-negative as int32, and ordered like the floats they are
    for (int k = 0; k < kGroup; ++k) {
        const auto bits = std::bit_cast<std::int32_t>(weights[k]) & 0x7fffffff;
        largest = bits > largest ? bits : largest;
    }
    return static_cast<std::uint32_t>(largest);
}

float nominal_scale(float absmax, Format format) {
    return format == Format::q8 ? absmax / 127.0f : absmax / 8.0f;
}

float quantise_q8(const float* weights, ScaleType type, std::int8_t* codes) {
    const float scale = round_scale(std::bit_cast<float>(magnitude_bits(weights)) / 127.0f, type);
    if (scale == 0) {
        std::memset(codes, 0, kGroup);
        return scale;
    }
    const __m128 divisor = _mm_set1_ps(scale);
    round_quotients(
        weights, [&](__m128 w) { return _mm_div_ps(w, divisor); }, -127.0f, 127.0f, codes);
    return scale;
}

float quantise_q4(const float* weights, ScaleType type, std::int8_t* codes) {
    float extreme = 0;
    for (int k = 0; k < kGroup; ++k)
        if (std::fabs(weights[k]) > std::fabs(extreme)) extreme = weights[k];
    const Q4Scale best = extreme == 0 ? Q4Scale{} : best_q4_scale(weights, extreme, type);
    if (best.inverse == 0) {
        std::memset(codes, 0, kGroup);
        return 0.0f;
    }
    const __m128 inverse = _mm_set1_ps(best.inverse);
    round_quotients(
        weights, [&](__m128 w) { return _mm_mul_ps(w, inverse); }, -8.0f, 7.0f, codes);
    return best.scale;
}

}  // namespace moestro::quant
