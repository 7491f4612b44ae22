#include "quant/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/error.h"
#include "base/thread_pool.h"
#include "base/types.h"
#include "quant/interleave.h"
#include "quant/quantise.h"
#include "quant/rows.h"

namespace moestro::quant {

namespace {

constexpr float kLeastF16Scale = 0x1p-18f;  // below, fewer than 7 significant bits remain in an f16
constexpr float kMostF16Scale = 65504.0f;

[[noreturn]] void refuse_non_finite(int row, int column) {
    fail(ErrorKind::numeric, "a weight in row ", row, ", columns ", column, "..", column + kGroup - 1,
         " is not finite: integer formats need finite weights; repair the checkpoint or keep this tensor in bf16 or "
         "f32");
}

bool finite(std::uint32_t magnitude) {
    return magnitude < 0x7f800000u;
}

// ---- float formats ----

// Which 32 x 32 tiles may be transposed straight from the source: those wholly inside it, of the format's own type.
bool copies_bits(const Source& source, const MatrixSpec& spec) {
    return (source.type == SourceType::f32 && spec.format == Format::f32) ||
           (source.type == SourceType::bf16 && spec.format == Format::bf16);
}

void pack_tile(const Source& source, const MatrixSpec& spec, int row, int column, std::byte* out) {
    const bool inside = row + kTile <= source.rows && column + kTile <= source.cols;
    const bool wide = spec.format == Format::f32;
    if (inside && copies_bits(source, spec)) {
        const auto stride = static_cast<std::ptrdiff_t>(source.cols) * static_cast<std::ptrdiff_t>(bytes(source.type));
        return (wide ? interleave_32 : interleave_16)(element(source, row, column), stride, out);
    }
    alignas(64) float values[kTile][kTile];
    alignas(64) Bf16 rounded[kTile][kTile];
    for (int r = 0; r < kTile; ++r) read_group(source, row + r, column, values[r]);
    if (wide) return interleave_32(reinterpret_cast<const std::byte*>(values), sizeof values[0], out);
    for (int r = 0; r < kTile; ++r)
        for (int k = 0; k < kTile; ++k) rounded[r][k] = to_bf16(values[r][k]);
    interleave_16(reinterpret_cast<const std::byte*>(rounded), sizeof rounded[0], out);
}

void pack_float_panel(const Source& source, const MatrixSpec& spec, int panel, std::byte* out) {
    const std::size_t tile_bytes = kTile * kTile * (spec.format == Format::f32 ? 4u : 2u);
    for (int column = 0; column < spec.padded_cols(); column += kTile, out += tile_bytes)
        pack_tile(source, spec, panel * spec.panel_rows(), column, out);
}

// ---- integer formats ----

void store_scale(std::byte* at, float scale, ScaleType type) {
    const F16 half = to_f16(scale);
    const Bf16 brain = to_bf16(scale);
    switch (type) {
        case ScaleType::f16:
            std::memcpy(at, &half, sizeof half);
            break;
        case ScaleType::bf16:
            std::memcpy(at, &brain, sizeof brain);
            break;
        default:
            std::memcpy(at, &scale, sizeof scale);
            break;
    }
}

void store_codes(const std::int8_t* codes, Format format, int lane, std::byte* group) {
    if (format == Format::q8) {
        for (int quad = 0; quad < 8; ++quad) std::memcpy(group + quad * 64 + lane * 4, codes + quad * 4, 4);
        return;
    }
    for (int k = 0; k < 16; ++k)
        group[(k / 4) * 64 + lane * 4 + k % 4] = static_cast<std::byte>((codes[k] + 8) | (codes[k + 16] + 8) << 4);
}

void pack_group(const Source& source, const MatrixSpec& spec, int row, int column, std::byte* scales,
                std::byte* codes) {
    const std::size_t scale_bytes = bytes(spec.scale);
    alignas(64) float weights[kGroup];
    alignas(64) std::int8_t quantised[kGroup];
    for (int lane = 0; lane < spec.panel_rows(); ++lane) {
        read_group(source, row + lane, column, weights);
        if (!finite(magnitude_bits(weights))) refuse_non_finite(row + lane, column);
        const float scale = (spec.format == Format::q8 ? quantise_q8 : quantise_q4)(weights, spec.scale, quantised);
        require(std::isfinite(scale), ErrorKind::numeric, "row ", row + lane, " needs a scale beyond what ",
                name(spec.scale), " holds: pack with f32 scales");
        store_scale(scales + static_cast<std::size_t>(lane) * scale_bytes, scale, spec.scale);
        store_codes(quantised, spec.format, lane, codes);
    }
}

void pack_integer_panel(const Source& source, const MatrixSpec& spec, int panel, std::byte* out) {
    const int lanes = spec.panel_rows();
    const std::size_t scale_row = static_cast<std::size_t>(lanes) * bytes(spec.scale);
    for (int begin = 0; begin < spec.padded_cols(); begin += kSegment) {
        const int columns = std::min(kSegment, spec.padded_cols() - begin);
        const auto groups = static_cast<std::size_t>(columns / kGroup);
        const std::size_t codes_at = round_up(groups * scale_row, kPartAlign);
        const std::size_t group_bytes = (spec.segment_bytes(columns) - codes_at) / groups;
        std::memset(out + groups * scale_row, 0, codes_at - groups * scale_row);
        for (std::size_t g = 0; g < groups; ++g)
            pack_group(source, spec, panel * lanes, begin + static_cast<int>(g) * kGroup, out + g * scale_row,
                       out + codes_at + g * group_bytes);
        out += spec.segment_bytes(columns);
    }
}

}  // namespace

ScaleType choose_scale_type(const Source& source, Format format) {
    if (!is_integer(format)) return ScaleType::none;
    const DefaultFloatEnvironment environment;
    alignas(64) float weights[kGroup];
    bool fits = true;
    for (int row = 0; row < source.rows; ++row) {
        for (int column = 0; column < source.cols; column += kGroup) {
            read_group(source, row, column, weights);
            const std::uint32_t magnitude = magnitude_bits(weights);
            if (!finite(magnitude)) refuse_non_finite(row, column);
            const float scale = nominal_scale(__builtin_bit_cast(float, magnitude), format);
            fits &= scale == 0 || (scale >= kLeastF16Scale && scale <= kMostF16Scale);
        }
    }
    return fits ? ScaleType::f16 : ScaleType::f32;
}

void pack(const Source& source, const MatrixSpec& spec, std::byte* destination, int panel_begin, int panel_end) {
    MOESTRO_CHECK(source.rows == spec.rows && source.cols == spec.cols);
    MOESTRO_CHECK(0 <= panel_begin && panel_begin <= panel_end && panel_end <= spec.panels());
    MOESTRO_CHECK(is_integer(spec.format) == (spec.scale != ScaleType::none));
    const DefaultFloatEnvironment environment;
    const std::size_t panel_bytes = spec.panel_bytes();
    for (int panel = panel_begin; panel < panel_end; ++panel) {
        std::byte* out = destination + static_cast<std::size_t>(panel) * panel_bytes;
        (is_integer(spec.format) ? pack_integer_panel : pack_float_panel)(source, spec, panel, out);
    }
}

namespace {

float widened(const std::byte* at, SourceType type) {
    std::uint16_t half = 0;
    float wide = 0;
    if (type == SourceType::f32)
        std::memcpy(&wide, at, sizeof wide);
    else
        std::memcpy(&half, at, sizeof half);
    return type == SourceType::f32 ? wide : type == SourceType::bf16 ? widen(Bf16{half}) : widen(F16{half});
}

// One column of one panel: `lanes` elements, zeros behind them.
void pack_column(const std::byte* column, SourceType type, std::int32_t step, int lanes, Format format,
                 std::byte* out) {
    const std::size_t size = bytes(type), out_size = format == Format::f32 ? 4 : 2;
    const bool same =
        (type == SourceType::f32 && format == Format::f32) || (type == SourceType::bf16 && format == Format::bf16);
    for (int lane = 0; lane < lanes; ++lane, out += out_size) {
        const std::byte* at = column + static_cast<std::ptrdiff_t>(lane) * step * static_cast<std::ptrdiff_t>(size);
        if (same) {
            std::memcpy(out, at, size);
        } else if (format == Format::f32) {
            const float value = widened(at, type);
            std::memcpy(out, &value, sizeof value);
        } else {
            const Bf16 value = to_bf16(widened(at, type));
            std::memcpy(out, &value, sizeof value);
        }
    }
    std::memset(out, 0, static_cast<std::size_t>(kTile - lanes) * out_size);
}

}  // namespace

void pack_columns(const Columns& columns, const MatrixSpec& spec, std::byte* destination) {
    MOESTRO_CHECK(!is_integer(spec.format) && spec.panel_rows() == kTile);
    MOESTRO_CHECK(0 <= columns.first && columns.first + columns.count <= spec.cols);
    const DefaultFloatEnvironment environment;
    const std::size_t size = bytes(columns.type), line = kTile * (spec.format == Format::f32 ? 4u : 2u);
    const int last = columns.first + columns.count, end = last == spec.cols ? spec.padded_cols() : last;
    for (int panel = 0; panel < spec.panels(); ++panel) {
        std::byte* out = destination + static_cast<std::size_t>(panel) * spec.panel_bytes();
        const int lanes = std::min(kTile, spec.rows - panel * kTile);
        const std::byte* in =
            columns.data + static_cast<std::size_t>(panel) * kTile * static_cast<std::size_t>(columns.step) * size;
        for (int k = columns.first; k < last; ++k)
            pack_column(
                in + static_cast<std::size_t>(k - columns.first) * static_cast<std::size_t>(columns.stride) * size,
                columns.type, columns.step, lanes, spec.format, out + static_cast<std::size_t>(k) * line);
        std::memset(out + static_cast<std::size_t>(last) * line, 0, static_cast<std::size_t>(end - last) * line);
    }
}

}  // namespace moestro::quant
