// Predictor "transition": tables from a routing trace. The token says what every layer is likely to use before the
// first one has begun, which leaves the time that reading from an SSD takes; what a layer chose corrects it for the
// next one.
//
// For an expert of the next layer there are two opinions: its share among earlier tokens of the same id, and after what
// the row has just used. Each is taken for what it adds to the expert's popularity, in odds:
//     odds = odds(token) * odds(previous layer) / odds(popularity).
// The row's experts are averaged into one opinion before that: they depend on each other too much to be multiplied (as
// naive Bayes would), which held-out traces of the demo model confirm. Layers further ahead go by the token alone. A
// row of which neither is known says nothing.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

inline constexpr float kLeastTransition = 0.1f;  // the least probability that a row gives a hint
inline constexpr int kTransitionShare = 2;       // times top_k: the most hints of a row for a layer

// Throws Error(usage) without a trace.
std::unique_ptr<Predictor> make_transition(const PredictorSettings& settings);

}  // namespace moestro::policy
