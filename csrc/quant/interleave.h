// From 32 rows of 32 columns to the [column][32 rows] order of a float panel.
#pragma once

#include <cstddef>

#include "quant/convert.h"

namespace moestro::quant {

inline constexpr int kTile = 32;

// `rows` is the first of 32 rows of 32 elements, `stride` bytes apart and not necessarily aligned; `out` is 64-byte
// aligned and receives 32 * 32 elements.
void interleave_16(const std::byte* rows, std::ptrdiff_t stride, std::byte* out);
void interleave_32(const std::byte* rows, std::ptrdiff_t stride, std::byte* out);

}  // namespace moestro::quant
