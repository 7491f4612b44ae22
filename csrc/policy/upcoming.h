// Which layers come next, and of how many of them predictors speak.
#pragma once

#include <algorithm>
#include <cstddef>

#include "policy/eviction.h"

namespace moestro::policy {

// Predictors that see further than the next layer say what they expect of so many: an expert that is used later than
// that is better read later, when more is known.
inline constexpr int kHorizon = 3;

// Positions first .. last - 1 in ExpertSet::layers.
struct Positions {
    std::size_t first = 0, last = 0;
};

// The next `count` layers with experts after `layer` (-1: before all layers); fewer at the end.
inline Positions upcoming(const ExpertSet& experts, int layer, int count) {
    const auto& layers = experts.layers;
    const auto found = std::upper_bound(layers.begin(), layers.end(), layer,
                                        [](int after, const ExpertSet::Layer& one) { return after < one.layer; });
    const auto first = static_cast<std::size_t>(found - layers.begin());
    return {first, std::min(layers.size(), first + static_cast<std::size_t>(count))};
}

}  // namespace moestro::policy
