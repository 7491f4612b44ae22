// Packing: from row-major source tensors to the record layout, and back (docs/numerics.md defines both exactly).
// All functions are pure and may run on any thread; callers split work by panels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "quant/format.h"

namespace moestro::quant {

// A row-major [rows, cols] matrix as a checkpoint stores it; `data` need not be aligned.
struct Source {
    const std::byte* data = nullptr;
    SourceType type = SourceType::f32;
    std::int32_t rows = 0;
    std::int32_t cols = 0;
};

// The scale type docs/numerics.md prescribes for packing these weights: f16, or f32 where f16 would under- or overflow;
// none for float formats. Throws Error(numeric) when an integer format meets a non-finite weight.
ScaleType choose_scale_type(const Source& source, Format format);

// Packs panels [panel_begin, panel_end) of `source` into `destination` (the whole matrix, spec.bytes() long; only those
// panels are written, padding included). bf16 -> bf16 and f32 -> f32 copy bits; f16 and bf16 widen exactly into f32;
// anything -> q8 | q4 quantises; f32 | f16 -> bf16 rounds to nearest even (an explicit request only).
// Throws Error(numeric) for a non-finite weight in an integer format.
void pack(const Source& source, const MatrixSpec& spec, std::byte* destination, int panel_begin, int panel_end);

// Columns [first, first + count) of a matrix [rows, cols] whose column k lies at data + (k - first) * stride, an
// element every `step` elements.
struct Columns {
    const std::byte* data = nullptr;
    SourceType type = SourceType::f32;
    std::int32_t first = 0, count = 0;
    std::int64_t stride = 0;  // elements
    std::int32_t step = 1;    // elements
};

// Packs these columns of every panel of `destination`, a whole matrix of a float format, as pack() does. With the last
// column comes the padding after it.
void pack_columns(const Columns& columns, const MatrixSpec& spec, std::byte* destination);

// The exact value of every weight, [rows, cols] row-major.
void unpack(const std::byte* packed, const MatrixSpec& spec, float* destination);

// The integer codes [rows, cols] and scales [rows, ceil(cols / 32)] of an integer matrix, for tests and exporters.
void unpack_codes(const std::byte* packed, const MatrixSpec& spec, std::int8_t* codes, float* scales);

}  // namespace moestro::quant
