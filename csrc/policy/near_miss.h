// How likely a row is to choose an expert, from what another layer's hidden state made its router think.
#pragma once

#include <cmath>

#include "policy/predictor.h"

namespace moestro::policy {

inline constexpr float kSharpness = 3;  // ours: with it chances come true on traces of the demo model

// Of the expert at `rank` (from 0) of a row's best: s^g / (s^g + b^g), where b lies between the scores of the last
// chosen and of the first that is not (their geometric mean) and g is kSharpness. So the boundary between chosen and
// not has a chance of one half, an expert of twice its score eight ninths, and one that a small change of scores would
// bring in has almost as much as one that it would push out. Where nothing is known of those not chosen, the chosen
// have 1.
inline float chance(const Thought& thought, int row, int rank) {
    const bool is_chosen = rank < thought.top_k;
    if (thought.kept <= thought.top_k || thought.top_k == 0) return is_chosen ? 1.0f : 0.0f;
    const std::span<const ScoredExpert> best = thought.of(row);
    const auto score = [&](int at) { return best[static_cast<std::size_t>(at)].score; };
    const float boundary = std::sqrt(score(thought.top_k - 1) * score(thought.top_k));
    if (boundary <= 0) return is_chosen ? 1.0f : 0.0f;
    return 1 / (1 + std::pow(score(rank) / boundary, -kSharpness));
}

}  // namespace moestro::policy
