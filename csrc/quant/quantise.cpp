#include "quant/quantise.h"

#include <emmintrin.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/convert.h"

namespace moestro::quant {

namespace {

// codes = clamp(rne(w / scale), low, high). Clamping before rounding equals clamping after it, because the bounds are
// integers; it also keeps quotients by tiny scales inside the range of int32.
void divide_and_round(const float* weights, float scale, float low, float high, std::int8_t* codes) {
    const __m128 divisor = _mm_set1_ps(scale), least = _mm_set1_ps(low), most = _mm_set1_ps(high);
    const auto four = [&](int k) {
        const __m128 quotient = _mm_div_ps(_mm_loadu_ps(weights + k), divisor);
        return _mm_cvtps_epi32(_mm_min_ps(_mm_max_ps(quotient, least), most));  // to nearest even, by the default MXCSR
    };
    for (int k = 0; k < kGroup; k += 16) {
        const __m128i first = _mm_packs_epi32(four(k), four(k + 4)), last = _mm_packs_epi32(four(k + 8), four(k + 12));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + k), _mm_packs_epi16(first, last));
    }
}

// The 33 candidates are lanes: every candidate sums its own error over k in order, whatever the vector width. Padded to
// whole vectors with copies that never win.
constexpr int kCandidates = 33;
constexpr int kCandidateLanes = 36;

struct Candidates {
    alignas(16) float scale[kCandidateLanes];
    alignas(16) float divisor[kCandidateLanes];  // the scale, or 1 where the candidate is skipped
    alignas(16) double error[kCandidateLanes];
};

__m128d squared_error(__m128d weight, __m128d scale, __m128i codes) {
    const __m128d difference = _mm_sub_pd(weight, _mm_mul_pd(scale, _mm_cvtepi32_pd(codes)));
    return _mm_mul_pd(difference, difference);
}

// Adds one weight's squared error to every candidate, in the baseline's SSE2: packing q4 spends its time here.
void add_errors(float weight, Candidates& all) {
    const __m128 single = _mm_set1_ps(weight), low = _mm_set1_ps(-8.0f), high = _mm_set1_ps(7.0f);
    const __m128d exact = _mm_set1_pd(weight);
    for (int i = 0; i < kCandidateLanes; i += 4) {
        const __m128 divisor = _mm_load_ps(all.divisor + i);
        const __m128 quotient = _mm_min_ps(_mm_max_ps(_mm_div_ps(single, divisor), low), high);
        const __m128i codes = _mm_cvtps_epi32(quotient);  // to nearest even, by the default MXCSR
        const __m128d first = squared_error(exact, _mm_cvtps_pd(divisor), codes);
        const __m128d last =
            squared_error(exact, _mm_cvtps_pd(_mm_movehl_ps(divisor, divisor)), _mm_unpackhi_epi64(codes, codes));
        _mm_store_pd(all.error + i, _mm_add_pd(_mm_load_pd(all.error + i), first));
        _mm_store_pd(all.error + i + 2, _mm_add_pd(_mm_load_pd(all.error + i + 2), last));
    }
}

float best_q4_scale(const float* weights, float extreme, ScaleType type) {
    Candidates all;
    for (int i = 0; i < kCandidateLanes; ++i) {
        const float t = -8.0f - static_cast<float>(i - 16) / 16.0f;
        all.scale[i] = i < kCandidates ? round_scale(extreme / t, type) : 0.0f;
        all.divisor[i] = all.scale[i] != 0 && std::isfinite(all.scale[i]) ? all.scale[i] : 1.0f;
        all.error[i] = 0;
    }
    for (int k = 0; k < kGroup; ++k) add_errors(weights[k], all);
    float best = 0;
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i < kCandidates; ++i) {
        if (all.scale[i] == 0 || !std::isfinite(all.scale[i]) || !(all.error[i] < least)) continue;
        least = all.error[i];
        best = all.scale[i];
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
    divide_and_round(weights, scale, -127.0f, 127.0f, codes);
    return scale;
}

float quantise_q4(const float* weights, ScaleType type, std::int8_t* codes) {
    float extreme = 0;
    for (int k = 0; k < kGroup; ++k)
        if (std::fabs(weights[k]) > std::fabs(extreme)) extreme = weights[k];
    const float scale = extreme == 0 ? 0.0f : best_q4_scale(weights, extreme, type);
    if (scale == 0) {
        std::memset(codes, 0, kGroup);
        return 0.0f;
    }
    divide_and_round(weights, scale, -8.0f, 7.0f, codes);
    return scale;
}

}  // namespace moestro::quant
