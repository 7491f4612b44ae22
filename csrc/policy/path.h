// ExpertFlow's predictor (2410.17954): a small trained network that foresees a token's path through all layers before
// the first one, corrected by what each router then really chose. The paper's is an encoder-decoder of 7 MB; this one
// (path_model.h) is small enough to be asked between layers. python/moestro/learn/path.py trains it.
//
// A row's context is what was accepted before the step and the step's earlier rows, as if all were of one text. Of a
// step with more rows than kPathRows the first ones are followed: together, so many rows use nearly everything.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

inline constexpr float kLeastPath = 0.15f;  // the least probability of a hint
inline constexpr int kPathRows = 32;

// Throws Error(usage) unless the settings' weights are of their experts.
std::unique_ptr<Predictor> make_path(const PredictorSettings& settings);

}  // namespace moestro::policy
