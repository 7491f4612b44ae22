// Random weights in the packed layout, made as fast as memory takes them, and random floats.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "kernels/ops.h"

namespace moestro::bench {

// Bits that are different everywhere and the same in every run.
class RandomBits {
  public:
    explicit RandomBits(std::uint64_t seed) : state_(seed) {}
    std::uint64_t operator()() {
        std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

  private:
    std::uint64_t state_;
};

struct FreeAligned {
    void operator()(std::byte* data) const { std::free(data); }
};
using AlignedBytes = std::unique_ptr<std::byte[], FreeAligned>;
AlignedBytes aligned_bytes(std::size_t size);

// Fills a matrix of q8, q4 (with f16 scales) or bf16: codes and numbers of every size, no zeros for nothing.
void fill_matrix(const quant::MatrixSpec& spec, std::byte* data, std::uint64_t seed);
// bf16 numbers of magnitudes from 2^-7 to 2.
void fill_bf16(std::byte* data, std::size_t bytes, std::uint64_t seed);
// Uniform in [-1, 1).
std::vector<float> random_floats(std::size_t count, std::uint64_t seed);

}  // namespace moestro::bench
