#include "random_data.h"

#include <algorithm>
#include <cstring>

#include "base/types.h"

namespace moestro::bench {

namespace {

// bytes: a multiple of 8. tame(word) keeps what a format allows.
template <class Tame>
void fill(std::byte* data, std::size_t bytes, RandomBits& random, const Tame& tame) {
    for (std::size_t at = 0; at < bytes; at += 8) {
        const std::uint64_t word = tame(random());
        std::memcpy(data + at, &word, 8);
    }
}

// Positive f16 from 2^-10 to 2^-9.
std::uint64_t scales(std::uint64_t word) {
    return (word & 0x03ff03ff03ff03ffu) | 0x1400140014001400u;
}
// No code is -128.
std::uint64_t codes(std::uint64_t word) {
    return word | 0x0101010101010101u;
}
std::uint64_t numbers(std::uint64_t word) {
    return (word & 0x83ff83ff83ff83ffu) | 0x3c003c003c003c00u;
}

}  // namespace

AlignedBytes aligned_bytes(std::size_t size) {
    return AlignedBytes(static_cast<std::byte*>(std::aligned_alloc(64, round_up(std::max<std::size_t>(size, 1), 64))));
}

void fill_bf16(std::byte* data, std::size_t bytes, std::uint64_t seed) {
    RandomBits random(seed);
    fill(data, bytes, random, numbers);
}

void fill_matrix(const quant::MatrixSpec& spec, std::byte* data, std::uint64_t seed) {
    if (!quant::is_integer(spec.format)) return fill_bf16(data, spec.bytes(), seed);
    RandomBits random(seed);
    for (int panel = 0; panel < spec.panels(); ++panel)
        for (int column = 0; column < spec.padded_cols(); column += quant::kSegment) {
            const int columns = std::min(quant::kSegment, spec.padded_cols() - column);
            const auto scale_bytes = static_cast<std::size_t>(columns / quant::kGroup * 16) * quant::bytes(spec.scale);
            const std::size_t padded = round_up(scale_bytes, quant::kPartAlign), whole = spec.segment_bytes(columns);
            std::memset(data, 0, padded);
            fill(data, scale_bytes, random, scales);
            fill(data + padded, whole - padded, random, codes);
            data += whole;
        }
}

std::vector<float> random_floats(std::size_t count, std::uint64_t seed) {
    RandomBits random(seed);
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(static_cast<std::int64_t>(random()) >> 40) / 0x1p23f;
    return values;
}

}  // namespace moestro::bench
