// Four independent 8-byte lanes over stripes of 32 bytes keep the multiplier busy; a tail of 8-, 4- and 1-byte steps
// follows. The format is little endian, as is x86-64.
#include "base/checksum.h"

#include <array>
#include <bit>
#include <cstring>

namespace moestro {

namespace {

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87u;
constexpr std::uint64_t kPrime2 = 0xC2B2AE3D27D4EB4Fu;
constexpr std::uint64_t kPrime3 = 0x165667B19E3779F9u;
constexpr std::uint64_t kPrime4 = 0x85EBCA77C2B2AE63u;
constexpr std::uint64_t kPrime5 = 0x27D4EB2F165667C5u;
constexpr std::size_t kStripeBytes = 32;

template <class Word>
std::uint64_t load(const std::byte* at) {
    Word word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

std::uint64_t mix(std::uint64_t lane, std::uint64_t input) {
    return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

std::uint64_t merge(std::uint64_t hash, std::uint64_t lane) {
    return (hash ^ mix(0, lane)) * kPrime1 + kPrime4;
}

// Consumes every whole stripe and leaves `at` behind the last one.
std::uint64_t hash_stripes(const std::byte*& at, const std::byte* end) {
    std::array<std::uint64_t, 4> lane{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1};
    for (; static_cast<std::size_t>(end - at) >= kStripeBytes; at += kStripeBytes) {
        lane[0] = mix(lane[0], load<std::uint64_t>(at));
        lane[1] = mix(lane[1], load<std::uint64_t>(at + 8));
        lane[2] = mix(lane[2], load<std::uint64_t>(at + 16));
        lane[3] = mix(lane[3], load<std::uint64_t>(at + 24));
    }
    std::uint64_t hash =
        std::rotl(lane[0], 1) + std::rotl(lane[1], 7) + std::rotl(lane[2], 12) + std::rotl(lane[3], 18);
    for (std::uint64_t one : lane) hash = merge(hash, one);
    return hash;
}

std::uint64_t hash_tail(std::uint64_t hash, const std::byte* at, const std::byte* end) {
    for (; end - at >= 8; at += 8) hash = std::rotl(hash ^ mix(0, load<std::uint64_t>(at)), 27) * kPrime1 + kPrime4;
    if (end - at >= 4) {
        hash = std::rotl(hash ^ load<std::uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
        at += 4;
    }
    for (; at != end; ++at) hash = std::rotl(hash ^ load<std::uint8_t>(at) * kPrime5, 11) * kPrime1;
    return hash;
}

std::uint64_t avalanche(std::uint64_t hash) {
    hash = (hash ^ (hash >> 33)) * kPrime2;
    hash = (hash ^ (hash >> 29)) * kPrime3;
    return hash ^ (hash >> 32);
}

}  // namespace

std::uint64_t xxh64(std::span<const std::byte> bytes) {
    const std::byte* at = bytes.data();
    const std::byte* const end = at + bytes.size();
    const std::uint64_t hash = bytes.size() >= kStripeBytes ? hash_stripes(at, end) : kPrime5;
    return avalanche(hash_tail(hash + bytes.size(), at, end));
}

}  // namespace moestro
