// Checks a routing table once, so that what learns from it need not.
#pragma once

#include <string_view>

#include "policy/predictor.h"

namespace moestro::policy {

// Throws Error(usage) naming the predictor, where the settings' trace is not one of their experts; a trace of no tokens
// is.
void require_table(std::string_view predictor, const PredictorSettings& settings);

// What a token of the table used in the layer at `position`. REQUIRES 0 <= token < count()
inline std::span<const std::int32_t> chosen_by(const RoutingTable& table, std::size_t position, std::size_t token) {
    const auto top_k = static_cast<std::size_t>(table.top_k);
    return std::span(table.chosen).subspan((position * table.tokens.size() + token) * top_k, top_k);
}

}  // namespace moestro::policy
