#include "quant/format.h"

#include <array>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/types.h"

namespace moestro::quant {

namespace {

struct FormatTraits {
    std::string_view name;
    int panel_rows;
    std::size_t group_bytes;  // codes of one panel over 32 columns
    bool integer;
};

constexpr FormatTraits kFormats[] = {
#define MOESTRO_FORMAT(name, panel_rows, group_bytes, integer) {#name, panel_rows, group_bytes, integer},
    MOESTRO_FORMATS(MOESTRO_FORMAT)
#undef MOESTRO_FORMAT
};
constexpr std::string_view kScales[] = {"none", "f16", "bf16", "f32"};
constexpr std::string_view kSources[] = {"f32", "bf16", "f16"};
constexpr int kScaleLanes = 16;

const FormatTraits& traits(Format format) {
    return kFormats[static_cast<std::size_t>(format)];
}

template <std::size_t N, class Name>
std::size_t find(std::string_view what, std::string_view text, const Name& name_at) {
    std::string known;
    for (std::size_t i = 0; i < N; ++i) {
        if (name_at(i) == text) return i;
        known += (i ? ", " : "") + std::string(name_at(i));
    }
    fail(ErrorKind::usage, "unknown ", what, " '", text, "': expected one of ", known);
}

}  // namespace

std::string_view name(Format format) {
    return traits(format).name;
}
std::string_view name(ScaleType scale) {
    return kScales[static_cast<std::size_t>(scale)];
}
std::string_view name(SourceType type) {
    return kSources[static_cast<std::size_t>(type)];
}

Format parse_format(std::string_view text) {
    return static_cast<Format>(
        find<std::size(kFormats)>("format", text, [](std::size_t i) { return kFormats[i].name; }));
}
ScaleType parse_scale_type(std::string_view text) {
    return static_cast<ScaleType>(
        find<std::size(kScales)>("scale type", text, [](std::size_t i) { return kScales[i]; }));
}
SourceType parse_source_type(std::string_view text) {
    return static_cast<SourceType>(
        find<std::size(kSources)>("element type", text, [](std::size_t i) { return kSources[i]; }));
}

void require_shape(std::string_view what, std::int64_t rows, std::int64_t cols) {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max() - kSegment;
    require(rows > 0 && cols > 0, ErrorKind::usage, what, " needs at least one row and one column; got [", rows, ", ",
            cols, "]");
    require(rows <= most && cols <= most && rows * cols <= kMostElements, ErrorKind::usage, what, " is too large: [",
            rows, ", ", cols, "]; expected at most ", most, " rows and columns and ", kMostElements, " elements");
}

bool is_integer(Format format) {
    return traits(format).integer;
}

std::size_t bytes(SourceType type) {
    return type == SourceType::f32 ? 4 : 2;
}
std::size_t bytes(ScaleType scale) {
    constexpr std::array<std::size_t, 4> sizes = {0, 2, 2, 4};
    return sizes[static_cast<std::size_t>(scale)];
}

int MatrixSpec::panel_rows() const {
    return traits(format).panel_rows;
}

int MatrixSpec::panels() const {
    return static_cast<int>(ceil_div(rows, panel_rows()));
}

std::int32_t MatrixSpec::padded_cols() const {
    return static_cast<std::int32_t>(ceil_div(cols, kGroup)) * kGroup;
}

std::size_t MatrixSpec::segment_bytes(int columns) const {
    const auto groups = static_cast<std::size_t>(columns / kGroup);
    return round_up(groups * kScaleLanes * quant::bytes(scale), kPartAlign) + groups * traits(format).group_bytes;
}

std::size_t MatrixSpec::panel_bytes() const {
    const int whole = padded_cols() / kSegment, rest = padded_cols() % kSegment;
    return static_cast<std::size_t>(whole) * segment_bytes(kSegment) + (rest ? segment_bytes(rest) : 0);
}

std::size_t MatrixSpec::bytes() const {
    return static_cast<std::size_t>(panels()) * panel_bytes();
}

}  // namespace moestro::quant
