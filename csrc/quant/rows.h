// Reading a row-major source a group of columns at a time, zero beyond its edges.
#pragma once

#include <algorithm>
#include <cstring>

#include "quant/convert.h"
#include "quant/pack.h"

namespace moestro::quant {

inline const std::byte* element(const Source& source, int row, int column) {
    return source.data +
           (static_cast<std::size_t>(row) * static_cast<std::size_t>(source.cols) + static_cast<std::size_t>(column)) *
               bytes(source.type);
}

// Columns [column, column + 32) of one row, widened exactly; zeros beyond the matrix.
inline void read_group(const Source& source, int row, int column, float* out) {
    const int count = row < source.rows ? std::min(kGroup, source.cols - column) : 0;
    const std::byte* in = count > 0 ? element(source, row, column) : nullptr;
    alignas(64) std::uint16_t halves[kGroup];
    switch (source.type) {
        case SourceType::f32:
            if (count > 0) std::memcpy(out, in, static_cast<std::size_t>(count) * 4);
            break;
        case SourceType::bf16:
            if (count > 0) std::memcpy(halves, in, static_cast<std::size_t>(count) * 2);
            for (int k = 0; k < count; ++k) out[k] = widen(Bf16{halves[k]});
            break;
        case SourceType::f16:
            if (count > 0) std::memcpy(halves, in, static_cast<std::size_t>(count) * 2);
            for (int k = 0; k < count; ++k) out[k] = widen(F16{halves[k]});
            break;
    }
    for (int k = count > 0 ? count : 0; k < kGroup; ++k) out[k] = 0;
}

}  // namespace moestro::quant
