// Predictor "none": expects nothing, so that records are read when they are missed.
#pragma once

#include <memory>

#include "policy/predictor.h"

namespace moestro::policy {

std::unique_ptr<Predictor> make_no_prediction(const PredictorSettings& settings);

}  // namespace moestro::policy
