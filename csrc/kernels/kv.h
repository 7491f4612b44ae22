// How keys and values are cut: constants that both the threaded operations and the instruction-set units need.
#pragma once

#include <cstddef>
#include <cstdint>

namespace moestro::kernels {

inline constexpr int kKvBlock = 64;     // positions of one block
inline constexpr int kKvSegment = 512;  // positions folded from an empty state, at absolute multiples of this

// Which keys a query sees: those up to its own position, and no further back than this says.
struct Reach {
    std::int64_t window = 0;  // so many keys, its own included; 0 is no limit
    std::int64_t chunk = 0;   // those in the same run of so many positions; 0 is no limit

    // The first position seen from `position`; never falls as that grows.
    std::int64_t first(std::int64_t position) const {
        std::int64_t first = window > 0 && position >= window ? position - window + 1 : 0;
        if (chunk > 0 && position / chunk * chunk > first) first = position / chunk * chunk;
        return first;
    }
};

enum class KvType : std::uint8_t { f32, bf16, f16 };

}  // namespace moestro::kernels
