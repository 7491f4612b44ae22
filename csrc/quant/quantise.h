// One group of 32 weights to integer codes and a scale (docs/numerics.md, "Formats"). All float arithmetic here
// expects the default floating-point environment.
#pragma once

#include <cstdint>

#include "quant/format.h"

namespace moestro::quant {

// `scale` as its type stores it, widened back.
float round_scale(float scale, ScaleType type);

// Largest magnitude of 32 floats as its binary32 bits: at or above 0x7f800000 when one is not finite.
std::uint32_t magnitude_bits(const float* weights);

// The scale the choice of a scale type looks at: absmax / 127 for q8, absmax / 8 for q4, unrounded.
float nominal_scale(float absmax, Format format);

// Writes 32 codes and returns the group's scale, already rounded to `type`. Weights must be finite.
float quantise_q8(const float* weights, ScaleType type, std::int8_t* codes);
float quantise_q4(const float* weights, ScaleType type, std::int8_t* codes);

}  // namespace moestro::quant
