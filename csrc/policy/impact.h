// HybriMoE's impact-driven prefetching (2504.05897): the routers of the next three layers are asked early, and of the
// experts that they would choose those are hinted at whose presence would shorten their layer most, by its plan with
// and without them.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

inline constexpr int kImpactLayers = 3;
inline constexpr int kImpactHints = 8;  // at most, of one call of predict

// Hints come in the order of what they gain, each given that those before it are heeded. Where there is a device,
// resident means on it and all else is in host memory; otherwise it means in host memory and all else is on the SSD.
std::unique_ptr<Predictor> make_impact(const PredictorSettings& settings);

}  // namespace moestro::policy
