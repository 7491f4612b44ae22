// The checksum of records: XXH64, seed 0, from its public specification. It finds flipped bits and torn writes; it is
// no defence against somebody who wants a collision.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moestro {

// Any length and address. Pure: any thread.
std::uint64_t xxh64(std::span<const std::byte> bytes);

}  // namespace moestro
