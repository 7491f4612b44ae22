// Weight formats and the one layout of a packed matrix (docs/numerics.md, "Formats"). The same bytes lie on SSD, in
// host memory and on a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moestro::quant {

// The one list of formats: name, rows of a panel, bytes of the codes of one panel over 32 columns, group scales or not.
#define MOESTRO_FORMATS(X)   \
    X(f32, 32, 4096, false)  \
    X(bf16, 32, 2048, false) \
    X(q8, 16, 512, true)     \
    X(q4, 16, 256, true)

enum class Format : std::uint8_t {
#define MOESTRO_FORMAT(name, panel_rows, group_bytes, integer) name,
    MOESTRO_FORMATS(MOESTRO_FORMAT)
#undef MOESTRO_FORMAT
};
enum class ScaleType : std::uint8_t { none, f16, bf16, f32 };
// Element types of source tensors.
enum class SourceType : std::uint8_t { f32, bf16, f16 };

// More elements than any matrix has; below it no size in bytes overflows, in any format.
inline constexpr std::int64_t kMostElements = std::int64_t{1} << 40;

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

// Throws Error(usage) beginning with `what` unless there are rows and columns, no more than kMostElements, and padding
// fits 32 bits.
void require_shape(std::string_view what, std::int64_t rows, std::int64_t cols);

bool is_integer(Format format);
std::size_t bytes(SourceType type);
std::size_t bytes(ScaleType scale);

// Shape and layout of one packed matrix [rows, cols] = [N, K].
struct MatrixSpec {
    std::int32_t rows = 0;
    std::int32_t cols = 0;
    Format format = Format::f32;
    ScaleType scale = ScaleType::none;  // none for float formats, f16 | bf16 | f32 for integer ones

    int panel_rows() const;                        // 16 or 32
    int panels() const;                            // ceil(rows / panel_rows)
    std::int32_t padded_cols() const;              // cols rounded up to 32
    std::size_t segment_bytes(int columns) const;  // of one panel; columns padded, <= 256
    std::size_t panel_bytes() const;
    std::size_t bytes() const;  // panels * panel_bytes, a multiple of 64
};

}  // namespace moestro::quant
