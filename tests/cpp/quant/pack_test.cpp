// The layout and the quantisers against second, literal implementations of docs/numerics.md.
#include "quant/pack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "base/error.h"
#include "quant/convert.h"

namespace moestro::quant {
namespace {

std::vector<float> normal(std::size_t count, unsigned seed, float deviation = 0.05f) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> draw(0.0f, deviation);
    std::vector<float> values(count);
    for (float& value : values) value = draw(generator);
    return values;
}

// A source of any element type, one byte off alignment.
struct Stored {
    std::vector<std::byte> bytes;
    Source source;
    std::vector<float> exact;  // the values it holds
};

Stored store(const std::vector<float>& values, SourceType type, int rows, int cols) {
    Stored stored;
    stored.bytes.resize(values.size() * bytes(type) + 1);
    std::byte* at = stored.bytes.data() + 1;
    for (float value : values) {
        const Bf16 brain = to_bf16(value);
        const F16 half = to_f16(value);
        switch (type) {
            case SourceType::f32:
                std::memcpy(at, &value, 4);
                break;
            case SourceType::bf16:
                std::memcpy(at, &brain, 2);
                break;
            case SourceType::f16:
                std::memcpy(at, &half, 2);
                break;
        }
        stored.exact.push_back(type == SourceType::f32 ? value : type == SourceType::bf16 ? widen(brain) : widen(half));
        at += bytes(type);
    }
    stored.source = {stored.bytes.data() + 1, type, rows, cols};
    return stored;
}

float round_by_the_book(float scale, ScaleType type) {
    if (type == ScaleType::f16) return widen(to_f16(scale));
    if (type == ScaleType::bf16) return widen(to_bf16(scale));
    return scale;
}

struct Group {
    float scale = 0;
    int codes[32] = {};
};

Group q8_by_the_book(const float* w, ScaleType type) {
    Group group;
    float absmax = 0;
    for (int k = 0; k < 32; ++k) absmax = std::max(absmax, std::fabs(w[k]));
    group.scale = round_by_the_book(absmax / 127.0f, type);
    for (int k = 0; k < 32 && group.scale != 0; ++k)
        group.codes[k] = static_cast<int>(std::clamp(std::nearbyint(w[k] / group.scale), -127.0f, 127.0f));
    return group;
}

Group q4_by_the_book(const float* w, ScaleType type) {
    float m = 0;
    for (int k = 0; k < 32; ++k)
        if (std::fabs(w[k]) > std::fabs(m)) m = w[k];
    Group best;
    float least = std::numeric_limits<float>::infinity();
    for (int i = -8; i <= 8 && m != 0; ++i) {
        Group trial;
        trial.scale = round_by_the_book(m / (-8.0f - static_cast<float>(i) / 8.0f), type);
        const float inverse = 1.0f / trial.scale;
        if (!std::isfinite(trial.scale) || !std::isfinite(inverse)) continue;
        float error = 0;
        for (int k = 0; k < 32; ++k) {
            trial.codes[k] = static_cast<int>(std::clamp(std::nearbyint(w[k] * inverse), -8.0f, 7.0f));
            const float difference = w[k] - trial.scale * static_cast<float>(trial.codes[k]);
            error += difference * difference;
        }
        if (error < least) {
            least = error;
            best = trial;
        }
    }
    return best;
}

void put_scale(std::byte* at, float scale, ScaleType type) {
    const F16 half = to_f16(scale);
    const Bf16 brain = to_bf16(scale);
    if (type == ScaleType::f16) std::memcpy(at, &half, 2);
    if (type == ScaleType::bf16) std::memcpy(at, &brain, 2);
    if (type == ScaleType::f32) std::memcpy(at, &scale, 4);
}

// Panels, segments, groups and quads as the page lists them, into zeros.
std::vector<std::byte> pack_by_the_book(const std::vector<float>& w, const MatrixSpec& spec) {
    const int N = spec.rows, K = spec.cols, padded = (K + 31) / 32 * 32;
    const int P = is_integer(spec.format) ? 16 : 32;
    std::vector<std::byte> out;
    for (int panel = 0; panel < (N + P - 1) / P; ++panel)
        for (int segment = 0; segment < padded; segment += 256) {
            const int columns = std::min(256, padded - segment), groups = columns / 32;
            const auto value = [&](int row, int k) {
                return panel * P + row < N && k < K ? w[static_cast<std::size_t>((panel * P + row) * K + k)] : 0.0f;
            };
            const std::size_t start = out.size();
            if (!is_integer(spec.format)) {
                const std::size_t size = spec.format == Format::f32 ? 4 : 2;
                out.resize(start + static_cast<std::size_t>(columns * 32) * size);
                for (int k = 0; k < columns; ++k)
                    for (int row = 0; row < 32; ++row) {
                        const float v = value(row, segment + k);
                        const Bf16 brain = to_bf16(v);
                        std::memcpy(out.data() + start + static_cast<std::size_t>(k * 32 + row) * size,
                                    size == 4 ? static_cast<const void*>(&v) : &brain, size);
                    }
                continue;
            }
            const std::size_t scale_size = spec.scale == ScaleType::f32 ? 4 : 2;
            const std::size_t scales = (static_cast<std::size_t>(groups) * 16 * scale_size + 63) / 64 * 64;
            const std::size_t group_bytes = spec.format == Format::q8 ? 512 : 256;
            out.resize(start + scales + static_cast<std::size_t>(groups) * group_bytes, std::byte{0});
            for (int g = 0; g < groups; ++g)
                for (int r = 0; r < 16; ++r) {
                    float weights[32];
                    for (int k = 0; k < 32; ++k) weights[k] = value(r, segment + g * 32 + k);
                    const Group group = spec.format == Format::q8 ? q8_by_the_book(weights, spec.scale)
                                                                  : q4_by_the_book(weights, spec.scale);
                    put_scale(out.data() + start + static_cast<std::size_t>(g * 16 + r) * scale_size, group.scale,
                              spec.scale);
                    std::byte* codes = out.data() + start + scales + static_cast<std::size_t>(g) * group_bytes;
                    for (int j = 0; j < (spec.format == Format::q8 ? 8 : 4); ++j)
                        for (int i = 0; i < 4; ++i)
                            codes[j * 64 + 4 * r + i] =
                                spec.format == Format::q8
                                    ? static_cast<std::byte>(group.codes[4 * j + i])
                                    : static_cast<std::byte>((group.codes[4 * j + i] + 8) |
                                                             (group.codes[16 + 4 * j + i] + 8) << 4);
                }
        }
    return out;
}

struct Case {
    Format format;
    ScaleType scale;
};
const Case kCases[] = {{Format::f32, ScaleType::none}, {Format::bf16, ScaleType::none}, {Format::q8, ScaleType::f16},
                       {Format::q8, ScaleType::bf16},  {Format::q8, ScaleType::f32},    {Format::q4, ScaleType::f16},
                       {Format::q4, ScaleType::bf16},  {Format::q4, ScaleType::f32}};

std::vector<std::byte> packed_bytes(const Source& source, const MatrixSpec& spec) {
    std::vector<std::byte> storage(spec.bytes() + 64, std::byte{0xee});
    auto* at = reinterpret_cast<std::byte*>((reinterpret_cast<std::uintptr_t>(storage.data()) + 63) / 64 * 64);
    const int middle = spec.panels() / 2;  // panels are independent: any split gives the same bytes
    pack(source, spec, at, middle, spec.panels());
    pack(source, spec, at, 0, middle);
    return {at, at + spec.bytes()};
}

TEST(Pack, EveryByteLiesWhereThePageSays) {
    for (const auto& [format, scale] : kCases)
        for (SourceType type : {SourceType::f32, SourceType::bf16, SourceType::f16})
            for (int rows : {1, 15, 16, 17, 31, 32, 33, 64, 65})
                for (int cols : {1, 3, 31, 32, 33, 64, 255, 256, 257, 300, 545}) {
                    if (format == Format::q4 && rows > 33 && cols > 64) continue;  // slow, and nothing new
                    const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
                    const Stored stored = store(normal(count, 1), type, rows, cols);
                    const MatrixSpec spec{rows, cols, format, scale};
                    ASSERT_EQ(packed_bytes(stored.source, spec), pack_by_the_book(stored.exact, spec))
                        << name(format) << " " << name(scale) << " from " << name(type) << " " << rows << "x" << cols;
                }
}

// A table whose column holds a row of the matrix: element (n, k) at k * stride + n * step.
TEST(PackColumns, GivesTheBytesOfTheTurnedMatrix) {
    for (const Format format : {Format::f32, Format::bf16})
        for (const SourceType type : {SourceType::f32, SourceType::bf16, SourceType::f16})
            for (const int step : {1, 2, 3})
                for (const int rows : {1, 31, 32, 33, 64, 70})
                    for (const int cols : {1, 3, 31, 32, 33, 100, 257}) {
                        const int stride = rows * step + (cols % 3 == 0 ? 5 : 0);
                        std::vector<float> w = normal(static_cast<std::size_t>(rows * cols), 1);
                        w[0] = -0.0f;
                        w[w.size() / 2] = std::numeric_limits<float>::infinity();
                        w[w.size() - 1] = std::numeric_limits<float>::quiet_NaN();
                        if (w.size() > 5) w[4] = 1e-41f;
                        std::vector<float> table(static_cast<std::size_t>(stride * cols), 1e9f);
                        for (int n = 0; n < rows; ++n)
                            for (int k = 0; k < cols; ++k)
                                table[static_cast<std::size_t>(k * stride + n * step)] =
                                    w[static_cast<std::size_t>(n * cols + k)];
                        const MatrixSpec spec{rows, cols, format, ScaleType::none};
                        const Stored plain = store(w, type, rows, cols), turned = store(table, type, cols, stride);
                        std::vector<std::byte> storage(spec.bytes() + 128, std::byte{0xee});
                        auto* at = reinterpret_cast<std::byte*>(
                            (reinterpret_cast<std::uintptr_t>(storage.data()) + 63) / 64 * 64);
                        // In any order and any number of columns at a time.
                        for (const auto& [first, last] : {std::pair{cols - cols / 3, cols},
                                                          {0, cols / 2},
                                                          {cols / 2, cols / 2},
                                                          {cols / 2, cols - cols / 3}})
                            pack_columns({turned.source.data + static_cast<std::size_t>(first * stride) * bytes(type),
                                          type, first, last - first, stride, step},
                                         spec, at);
                        ASSERT_EQ((std::vector<std::byte>(at, at + spec.bytes())), packed_bytes(plain.source, spec))
                            << name(format) << " from " << name(type) << " " << rows << "x" << cols << " step " << step;
                        EXPECT_EQ(at[spec.bytes()], std::byte{0xee});
                    }
}

TEST(PackColumns, FlushingCallersGetTheSameBytes) {
    const Stored stored = store(normal(40 * 33, 1, 1e-39f), SourceType::f32, 33, 40);
    const MatrixSpec spec{40, 33, Format::bf16, ScaleType::none};
    const auto packed = [&] {
        std::vector<std::byte> out(spec.bytes());
        pack_columns({stored.source.data, SourceType::f32, 0, 33, 40, 1}, spec, out.data());
        return out;
    };
    const std::vector<std::byte> expected = packed();
    const unsigned saved = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(saved | 0x8040);
    const std::vector<std::byte> flushed = packed();
    __builtin_ia32_ldmxcsr(saved);
    EXPECT_EQ(flushed, expected);
}

TEST(Pack, UnpackReturnsTheExactWeights) {
    for (const auto& [format, scale] : kCases) {
        const int rows = 37, cols = 300, groups = 10;
        const Stored stored = store(normal(rows * cols, 3), SourceType::bf16, rows, cols);
        const MatrixSpec spec{rows, cols, format, scale};
        const std::vector<std::byte> packed = packed_bytes(stored.source, spec);
        std::vector<float> values(rows * cols);
        unpack(packed.data(), spec, values.data());
        if (!is_integer(format)) {
            EXPECT_EQ(values, stored.exact);
            continue;
        }
        std::vector<std::int8_t> codes(rows * cols);
        std::vector<float> scales(rows * groups);
        unpack_codes(packed.data(), spec, codes.data(), scales.data());
        double error = 0, power = 0;
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t k = 0; k < cols; ++k) {
                const std::size_t at = row * cols + k;
                ASSERT_EQ(values[at], static_cast<float>(codes[at]) * scales[row * groups + k / 32]);
                error += std::pow(values[at] - stored.exact[at], 2);
                power += std::pow(stored.exact[at], 2);
            }
        EXPECT_LT(error / power, format == Format::q8 ? 1e-4 : 8e-3) << name(format) << " " << name(scale);
    }
}

TEST(Pack, Q4BeatsTheNominalScale) {
    double chosen = 0, nominal = 0;
    const std::vector<float> w = normal(32 * 200, 5);
    for (std::size_t g = 0; g < 200; ++g) {
        const float* group = w.data() + g * 32;
        const Group best = q4_by_the_book(group, ScaleType::f32);
        float m = 0;
        for (int k = 0; k < 32; ++k)
            if (std::fabs(group[k]) > std::fabs(m)) m = group[k];
        for (int k = 0; k < 32; ++k) {
            chosen += std::pow(group[k] - best.scale * static_cast<float>(best.codes[k]), 2);
            nominal += std::pow(group[k] - m / -8 * std::clamp(std::nearbyint(group[k] / (m / -8)), -8.0f, 7.0f), 2);
        }
    }
    EXPECT_LT(chosen, 0.9 * nominal);
}

TEST(Pack, GroupsOfZerosAndOfSubnormals) {
    for (const auto& [format, scale] : kCases) {
        if (scale != ScaleType::f32) continue;
        std::vector<float> w(4 * 32, 0.0f);
        for (std::size_t k = 0; k < 32; ++k) {
            w[32 + k] = 1e-45f * static_cast<float>(k % 5);     // scales round to zero or to one unit
            w[64 + k] = 1e-40f * (static_cast<float>(k) - 20);  // coarse subnormal scales
            w[96 + k] = k == 7 ? -3e38f : 1e30f;
        }
        const Stored stored = store(w, SourceType::f32, 4, 32);
        const MatrixSpec spec{4, 32, format, scale};
        EXPECT_EQ(packed_bytes(stored.source, spec), pack_by_the_book(stored.exact, spec)) << name(format);
    }
}

TEST(ScaleTypeChoice, F16OnlyWhereItKeepsSevenBits) {
    for (Format format : {Format::q8, Format::q4}) {
        const float step = format == Format::q8 ? 127.0f : 8.0f;
        const auto choice = [&](float absmax) {
            std::vector<float> w(3 * 40, 0.0f);
            w[0] = step * 0.01f;
            w[40 + 35] = -absmax;
            return choose_scale_type(store(w, SourceType::f32, 3, 40).source, format);
        };
        EXPECT_EQ(choice(step * 0x1p-18f), ScaleType::f16);
        EXPECT_EQ(choice(std::nextafter(step * 0x1p-18f, 0.0f) * 0.999f), ScaleType::f32);
        EXPECT_EQ(choice(step * 65504.0f), ScaleType::f16);
        EXPECT_EQ(choice(step * 65536.0f), ScaleType::f32);
        EXPECT_EQ(choice(0.0f), ScaleType::f16);
    }
    EXPECT_EQ(choose_scale_type(store({1.0f}, SourceType::f32, 1, 1).source, Format::bf16), ScaleType::none);
}

TEST(Pack, NonFiniteWeightsAreRefusedInIntegerFormatsAlone) {
    for (float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        std::vector<float> w = normal(20 * 50, 1);
        w[18 * 50 + 40] = bad;
        const Stored stored = store(w, SourceType::f32, 20, 50);
        for (Format format : {Format::q8, Format::q4}) {
            try {
                packed_bytes(stored.source, {20, 50, format, ScaleType::f32});
                FAIL() << "expected an error";
            } catch (const Error& error) {
                EXPECT_EQ(error.kind(), ErrorKind::numeric);
                EXPECT_NE(std::string(error.what()).find("row 18, columns 32"), std::string::npos) << error.what();
            }
            EXPECT_THROW(choose_scale_type(stored.source, format), Error);
        }
        EXPECT_NO_THROW(packed_bytes(stored.source, {20, 50, Format::bf16, ScaleType::none}));
    }
}

TEST(Pack, FlushingCallersGetTheSameBytes) {
    std::vector<float> w = normal(16 * 64, 1, 1e-39f);
    const Stored stored = store(w, SourceType::f32, 16, 64);
    for (Format format : {Format::q8, Format::q4}) {
        const MatrixSpec spec{16, 64, format, ScaleType::f32};
        const std::vector<std::byte> expected = packed_bytes(stored.source, spec);
        const unsigned saved = __builtin_ia32_stmxcsr();
        __builtin_ia32_ldmxcsr(saved | 0x8040);
        const std::vector<std::byte> flushed = packed_bytes(stored.source, spec);
        const ScaleType chosen = choose_scale_type(stored.source, format);
        __builtin_ia32_ldmxcsr(saved);
        EXPECT_EQ(flushed, expected);
        EXPECT_EQ(chosen, ScaleType::f32);
    }
}

}  // namespace
}  // namespace moestro::quant
