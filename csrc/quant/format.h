// Weight formats and the one layout of a packed matrix (docs/numerics.md, "Formats"). The same bytes lie on SSD, in
// host memory and on a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moestro::quant {

enum class Format : std::uint8_t { f32, bf16, q8, q4 };
enum class ScaleType : std::uint8_t { none, f16, bf16, f32 };
// Element types of source tensors.
enum class SourceType : std::uint8_t { f32, bf16, f16 };

inline constexpr int kGroup = 32;              // columns that share a scale
inline constexpr int kSegment = 256;           // columns that share an accumulator
inline constexpr std::size_t kPartAlign = 64;  // matrices start on multiples of this inside a record

// Names as users write them; parsing throws Error(usage) listing the known names.
std::string_view name(Format format);
std::string_view name(ScaleType scale);
std::string_view name(SourceType type);
Format parse_format(std::string_view text);
ScaleType parse_scale_type(std::string_view text);
SourceType parse_source_type(std::string_view text);

constexpr bool is_integer(Format format) { return format == Format::q8 || format == Format::q4; }
std::size_t bytes(SourceType type);
std::size_t bytes(ScaleType scale);

// Shape and layout of one packed matrix [rows, cols] = [N, K].
struct MatrixSpec {
    std::int32_t rows = 0;
    std::int32_t cols = 0;
    Format format = Format::f32;
    ScaleType scale = ScaleType::none;  // none for float formats, f16 | bf16 | f32 for integer ones

    int panel_rows() const;             // 16 or 32
    int panels() const;                 // ceil(rows / panel_rows)
    std::int32_t padded_cols() const;   // cols rounded up to 32
    std::size_t segment_bytes(int columns) const;  // of one panel; columns padded, <= 256
    std::size_t panel_bytes() const;
    std::size_t bytes() const;          // panels * panel_bytes, a multiple of 64
};

}  // namespace moestro::quant
