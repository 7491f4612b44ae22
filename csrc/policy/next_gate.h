// Fate's cross-layer gate (2502.12224): neighbouring layers have similar router inputs, so the router of the next layer
// is asked early, with this layer's input. Experts that it nearly chose count too: the inputs are similar, not the
// same.
//
// The paper takes near misses up to a quantile of their weights, within an I/O budget. Here each has a probability
// (near_miss.h), and what may be read for it is for those who read to say.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

inline constexpr float kNearMiss = 0.25f;  // the least probability of a hint: seven tenths of the border's score

std::unique_ptr<Predictor> make_next_gate(const PredictorSettings& settings);

}  // namespace moestro::policy
