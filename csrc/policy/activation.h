// MoE-Infinity's predictor (2401.14361): what a step used so far is compared with what earlier tokens used in the same
// layers; those that began alike say how it goes on. It learns from a trace, where there is one, and from every
// accepted token.
//
// The step's counts of rows in the layers seen so far are compared by cosine with each matrix of the collection. The
// best matches are averaged, each by a power of its cosine; of a layer the average is made to sum to 1 and taken top_k
// times, which is the probability that one row uses an expert, and some row of the step does so as if rows did not know
// of each other. Before the first layer nothing has been seen, and nothing is expected.
//
// The paper reads by (p + eps) (1 - (i - l) / L): the probability of an expert, falling with the distance of its layer.
// Here a probability stays one. That what is far is worth less is said by the horizon: of layers beyond it nothing is
// expected. Number and power of matches are not in the paper; with these, on held-out traces of the demo model, a hint
// comes true about as often as it says.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

inline constexpr int kActivationMatrices = 1024;  // of the collection
inline constexpr int kActivationMatches = 32;     // that are averaged
inline constexpr int kActivationPower = 8;        // of their cosines
inline constexpr float kLeastActivation = 0.1f;   // the least probability of a hint

std::unique_ptr<Predictor> make_activation(const PredictorSettings& settings);

}  // namespace moestro::policy
