#include "quant/convert.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

namespace moestro::quant {
namespace {

// The 16-bit type with `bits` of significand after the leading one and a least exponent, by arithmetic in long double.
float nearest_by_the_book(float value, int bits, int least_exponent, float overflow) {
    if (value == 0 || !std::isfinite(value)) return value;
    if (std::fabs(value) >= overflow) return std::copysign(std::numeric_limits<float>::infinity(), value);
    const int exponent = std::max(std::ilogb(value), least_exponent);
    const long double unit = std::ldexp(1.0L, exponent - bits);
    return static_cast<float>(std::nearbyint(static_cast<long double>(value) / unit) * unit);
}

TEST(Convert, EveryHalfWidensExactlyAndComesBack) {
    for (unsigned bits = 0; bits < 0x10000; ++bits) {
        const auto stored = static_cast<std::uint16_t>(bits);
        const float half = widen(F16{stored}), brain = widen(Bf16{stored});
        const int exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
        if (exponent < 31) {
            const double magnitude = exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
            ASSERT_EQ(half, bits & 0x8000 ? -magnitude : magnitude);
            ASSERT_EQ(std::signbit(half), (bits & 0x8000) != 0);
            ASSERT_EQ(to_f16(half).bits, stored);
        } else {
            ASSERT_EQ(std::isnan(half), fraction != 0);
            ASSERT_EQ(std::isnan(widen(to_f16(half))), fraction != 0);
        }
        if (std::isnan(brain)) {
            ASSERT_TRUE(std::isnan(widen(to_bf16(brain))));
        } else {
            ASSERT_EQ(to_bf16(brain).bits, stored);
        }
    }
}

TEST(Convert, RoundsToNearestEven) {
    std::mt19937 generator(1);
    for (int i = 0; i < 2000000; ++i) {
        auto bits = generator();
        if (i % 4 == 0) bits = (bits & 0x8fffffff) | 0x30000000;  // around f16's subnormals
        if (i % 8 == 1) bits = (bits & 0xffffe000) | 0x1000;      // ties of f16
        if (i % 8 == 3) bits = (bits & 0xffff0000) | 0x8000;      // ties of bf16
        const float value = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
        if (std::isnan(value)) continue;
        ASSERT_EQ(widen(to_f16(value)), nearest_by_the_book(value, 10, -14, 65520.0f)) << std::hexfloat << value;
        ASSERT_EQ(widen(to_bf16(value)), nearest_by_the_book(value, 7, -126, 0x1.ffp127f)) << std::hexfloat << value;
    }
}

}  // namespace
}  // namespace moestro::quant
