// Pre-gated MoE (ISCA 2024): models whose routers were trained to choose the next layer's experts. What such a router
// says of the next layer is what that layer will use, so exactly this is hinted at, and no near miss.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

std::unique_ptr<Predictor> make_pre_gated(const PredictorSettings& settings);

}  // namespace moestro::policy
