// HybriMoE's minus-recent-score policy (2504.05897): of every expert S = a TopP(s) + (1 - a) S, where s is what the
// router thought of it for a token and TopP keeps the 2 k best of a layer and takes the others for zero; the resident
// expert of the smallest S goes. So an expert that was nearly chosen stays longer than one that was not. The paper does
// not print a; its code passes 0.5.
#pragma once

#include <memory>

#include "policy/eviction.h"

namespace moestro::policy {

inline constexpr double kRecentShare = 0.5;  // a

std::unique_ptr<Eviction> make_score(const EvictionSettings& settings);

}  // namespace moestro::policy
