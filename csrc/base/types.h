// Words shared by every layer of the core.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>

namespace moestro {

// One gated MLP of one layer.
struct ExpertId {
    std::int32_t layer = 0;
    std::int32_t expert = 0;
    auto operator<=>(const ExpertId&) const = default;
};

// Files, slots and records are laid out in these units: O_DIRECT works on any multiple of it.
inline constexpr std::size_t kPageBytes = 4096;

constexpr std::size_t round_up(std::size_t value, std::size_t unit) {
    return (value + unit - 1) / unit * unit;
}
constexpr std::size_t round_down(std::size_t value, std::size_t unit) {
    return value / unit * unit;
}
constexpr std::int64_t ceil_div(std::int64_t value, std::int64_t unit) {
    return (value + unit - 1) / unit;
}

}  // namespace moestro
