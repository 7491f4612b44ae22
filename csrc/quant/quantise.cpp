#include "quant/quantise.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "quant/convert.h"

namespace moestro::quant {

namespace {

constexpr float kRoundMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds |v| < 2^22 to an integer, ties to even

float nearest(float value) {
    return (value + kRoundMagic) - kRoundMagic;
}

// Clamping before rounding equals clamping after it, because the bounds are integers; it also keeps quotients by tiny
// scales inside the range where `nearest` holds.
float clamp(float value, float low, float high) {
    const float raised = value < low ? low : value;
    return raised > high ? high : raised;
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

void add_errors(float weight, Candidates& all) {
    const double exact = weight;
    for (int i = 0; i < kCandidateLanes; ++i) {
        const float code = nearest(clamp(weight / all.divisor[i], -8.0f, 7.0f));
        const double difference = exact - static_cast<double>(all.divisor[i]) * static_cast<double>(code);
        all.error[i] += difference * difference;
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
    for (int k = 0; k < kGroup; ++k)
        codes[k] = static_cast<std::int8_t>(static_cast<int>(nearest(clamp(weights[k] / scale, -127.0f, 127.0f))));
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
    for (int k = 0; k < kGroup; ++k)
        codes[k] = static_cast<std::int8_t>(static_cast<int>(nearest(clamp(weights[k] / scale, -8.0f, 7.0f))));
    return scale;
}

}  // namespace moestro::quant
