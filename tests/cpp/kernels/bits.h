// Test data and comparison to the bit.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <span>
#include <vector>

namespace moestro::testing {

struct FreeAligned {
    void operator()(std::byte* at) const { std::free(at); }
};
// 64-byte aligned bytes, filled with 0xFF: a NaN in every float type, so that reading what nobody wrote shows.
using AlignedBytes = std::unique_ptr<std::byte[], FreeAligned>;
inline AlignedBytes aligned_bytes(std::size_t size) {
    const std::size_t rounded = (size + 63) / 64 * 64 + 64;
    auto* at = static_cast<std::byte*>(std::aligned_alloc(64, rounded));
    std::fill_n(at, rounded, std::byte{0xff});
    return AlignedBytes(at);
}

inline std::vector<float> normal_floats(std::size_t count, unsigned seed, float deviation = 1.0f) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> draw(0.0f, deviation);
    std::vector<float> values(count);
    for (float& value : values) value = draw(generator);
    return values;
}

// NaNs compare by being NaN: their payloads mean nothing.
inline void expect_same_bits(std::span<const float> actual, std::span<const float> expected) {
    ASSERT_EQ(actual.size(), expected.size());
    for (std::size_t i = 0; i < actual.size(); ++i) {
        const bool same = std::bit_cast<std::uint32_t>(actual[i]) == std::bit_cast<std::uint32_t>(expected[i]) ||
                          (actual[i] != actual[i] && expected[i] != expected[i]);
        ASSERT_TRUE(same) << "element " << i << " of " << actual.size() << ": " << std::hexfloat << actual[i]
                          << ", expected " << expected[i];
    }
}

// Squared error over squared reference.
inline double nmse(std::span<const float> actual, std::span<const double> reference) {
    double error = 0, power = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
        error += (actual[i] - reference[i]) * (actual[i] - reference[i]);
        power += reference[i] * reference[i];
    }
    return power == 0 ? error : error / power;
}

}  // namespace moestro::testing
