// "auto": the predictor that reaches as far as this machine needs. Where a record is moved within a layer's time the
// next layer is far enough, and next_gate knows it best; where it takes longer, impact looks three layers ahead.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

std::unique_ptr<Predictor> make_by_reach(const PredictorSettings& settings);

}  // namespace moestro::policy
