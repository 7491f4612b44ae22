// How keys and values are cut: constants that both the threaded operations and the instruction-set units need.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moestro::kernels {

inline constexpr int kKvBlock = 64;     // positions of one block
inline constexpr int kKvSegment = 512;  // positions folded from an empty state, at absolute multiples of this

enum class KvType : std::uint8_t { f32, bf16, f16 };

}  // namespace moestro::kernels
