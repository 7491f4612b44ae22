#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/types.h"
#include "quant/convert.h"
#include "quant/pack.h"

namespace moestro::quant {

namespace {

// Where one weight of a packed matrix lies.
struct Place {
    const std::byte* scales;  // of its group: 16 lanes
    const std::byte* codes;   // of its group (integer formats) or of its column (float formats)
    int lane;
    int k;  // inside the group
};

Place locate(const std::byte* packed, const MatrixSpec& spec, int row, int column) {
    const int lanes = spec.panel_rows(), segment = column / kSegment;
    const std::byte* at = packed + static_cast<std::size_t>(row / lanes) * spec.panel_bytes() +
                          static_cast<std::size_t>(segment) * spec.segment_bytes(kSegment);
    const int columns = std::min(kSegment, spec.padded_cols() - segment * kSegment);
    const auto groups = static_cast<std::size_t>(columns / kGroup);
    const std::size_t scale_row = 16 * bytes(spec.scale);
    const std::size_t codes_at = round_up(groups * scale_row, kPartAlign);
    const std::size_t group_bytes = (spec.segment_bytes(columns) - codes_at) / groups;
    const auto group = static_cast<std::size_t>(column % kSegment / kGroup);
    return {at + group * scale_row, at + codes_at + group * group_bytes, row % lanes, column % kGroup};
}

template <class T>
T read(const std::byte* base, int index) {
    T value;
    std::memcpy(&value, base + static_cast<std::size_t>(index) * sizeof(T), sizeof(T));
    return value;
}

float scale_of(const Place& place, ScaleType type) {
    switch (type) {
        case ScaleType::f16:
            return widen(read<F16>(place.scales, place.lane));
        case ScaleType::bf16:
            return widen(read<Bf16>(place.scales, place.lane));
        default:
            return read<float>(place.scales, place.lane);
    }
}

int code_of(const Place& place, Format format) {
    const int lane_byte = place.lane * 4 + place.k % 4;
    if (format == Format::q8) return read<std::int8_t>(place.codes, place.k / 4 * 64 + lane_byte);
    const auto both = read<std::uint8_t>(place.codes, place.k % 16 / 4 * 64 + lane_byte);
    return (place.k < 16 ? both & 15 : both >> 4) - 8;
}

float value_of(const Place& place, const MatrixSpec& spec) {
    switch (spec.format) {
        case Format::f32:
            return read<float>(place.codes, place.k * 32 + place.lane);
        case Format::bf16:
            return widen(read<Bf16>(place.codes, place.k * 32 + place.lane));
        default:
            return static_cast<float>(code_of(place, spec.format)) * scale_of(place, spec.scale);
    }
}

}  // namespace

void unpack(const std::byte* packed, const MatrixSpec& spec, float* destination) {
    for (int row = 0; row < spec.rows; ++row)
        for (int column = 0; column < spec.cols; ++column)
            *destination++ = value_of(locate(packed, spec, row, column), spec);
}

void unpack_codes(const std::byte* packed, const MatrixSpec& spec, std::int8_t* codes, float* scales) {
    MOESTRO_CHECK(is_integer(spec.format));
    for (int row = 0; row < spec.rows; ++row) {
        for (int column = 0; column < spec.cols; ++column) {
            const Place place = locate(packed, spec, row, column);
            *codes++ = static_cast<std::int8_t>(code_of(place, spec.format));
            if (place.k == 0) *scales++ = scale_of(place, spec.scale);
        }
    }
}

}  // namespace moestro::quant
