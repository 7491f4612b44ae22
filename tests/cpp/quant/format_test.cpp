#include "quant/format.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>

#include "base/error.h"

namespace moestro::quant {
namespace {

TEST(Format, NamesRoundTrip) {
    for (Format format : {Format::f32, Format::bf16, Format::q8, Format::q4})
        EXPECT_EQ(parse_format(name(format)), format);
    for (ScaleType scale : {ScaleType::none, ScaleType::f16, ScaleType::bf16, ScaleType::f32})
        EXPECT_EQ(parse_scale_type(name(scale)), scale);
    for (SourceType type : {SourceType::f32, SourceType::bf16, SourceType::f16})
        EXPECT_EQ(parse_source_type(name(type)), type);
    EXPECT_EQ(name(Format::q8), "q8");
    EXPECT_EQ(name(ScaleType::f16), "f16");
}

TEST(Format, UnknownNameListsTheKnownOnes) {
    try {
        parse_format("q5");
        FAIL() << "expected an error";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        EXPECT_EQ(std::string(error.what()), "unknown format 'q5': expected one of f32, bf16, q8, q4");
    }
    EXPECT_THROW(parse_scale_type("f64"), Error);
    EXPECT_THROW(parse_source_type("i8"), Error);
}

TEST(MatrixSpec, ShapesWhoseBytesWouldOverflowAreRefused) {
    constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
    for (const auto& [rows, cols] : {std::pair{std::int64_t{0}, std::int64_t{1}},
                                     {1, -1},
                                     {most, most},
                                     {1, most},
                                     {most, 1},
                                     {most + 1, 1},
                                     {1 << 21, 1 << 20}})
        EXPECT_THROW(require_shape("w", rows, cols), Error) << rows << " x " << cols;
    require_shape("w", 1 << 20, 1 << 20);
    EXPECT_EQ((MatrixSpec{1 << 20, 1 << 20, Format::f32, ScaleType::none}.bytes()), std::size_t{1} << 42);
    require_shape("w", 1, most - 256);
    EXPECT_EQ((MatrixSpec{1, most - 256, Format::bf16, ScaleType::none}.bytes()), ((std::size_t{1} << 31) - 256) * 64);
}

TEST(MatrixSpec, CountsBytesOfEveryLayout) {
    // 40 columns pad to 64; two groups per segment.
    const MatrixSpec f32{33, 40, Format::f32, ScaleType::none}, bf16{33, 40, Format::bf16, ScaleType::none};
    EXPECT_EQ(f32.panels(), 2);
    EXPECT_EQ(f32.bytes(), 2u * 64 * 32 * 4);
    EXPECT_EQ(bf16.bytes(), 2u * 64 * 32 * 2);
    const MatrixSpec q8{33, 40, Format::q8, ScaleType::f16}, q4{33, 40, Format::q4, ScaleType::f32};
    EXPECT_EQ(q8.panels(), 3);
    EXPECT_EQ(q8.bytes(), 3u * (64 + 2 * 512));
    EXPECT_EQ(q4.bytes(), 3u * (128 + 2 * 256));
    // One group of f16 scales is 32 bytes, padded to 64 where it stands alone in a segment.
    const MatrixSpec ragged{16, 288, Format::q4, ScaleType::f16};
    EXPECT_EQ(ragged.bytes(), (256u + 8 * 256) + (64u + 256));
    EXPECT_EQ((MatrixSpec{16, 1024, Format::q8, ScaleType::f16}.bytes()), 16u * 1024 + 32 * 16 * 2);
    for (int rows : {1, 16, 100})
        for (int cols : {1, 33, 256, 1000})
            for (Format format : {Format::f32, Format::bf16, Format::q8, Format::q4}) {
                const MatrixSpec spec{rows, cols, format, is_integer(format) ? ScaleType::f16 : ScaleType::none};
                EXPECT_EQ(spec.bytes() % kPartAlign, 0u);
            }
}

}  // namespace
}  // namespace moestro::quant
