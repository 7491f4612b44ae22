#include "policy/routing_table.h"

#include "base/error.h"

namespace moestro::policy {

void require_table(std::string_view predictor, const PredictorSettings& settings) {
    const RoutingTable& table = settings.trace;
    const auto& layers = settings.experts.layers;
    require(settings.top_k.size() == layers.size(), ErrorKind::usage, "predictor \"", predictor,
            "\": expected how many experts each of ", layers.size(), " layers chooses; got ", settings.top_k.size(),
            " numbers");
    const std::size_t expected = layers.size() * table.tokens.size() * static_cast<std::size_t>(table.top_k);
    require(table.chosen.size() == expected, ErrorKind::usage, "predictor \"", predictor, "\": a trace of ",
            table.count(), " tokens that use ", table.top_k, " experts in each of ", layers.size(), " layers has ",
            expected, " choices; got ", table.chosen.size());
    for (std::size_t position = 0; position < layers.size(); ++position)
        for (std::size_t token = 0; token < table.tokens.size(); ++token)
            for (const std::int32_t expert : chosen_by(table, position, token))
                require(expert >= 0 && expert < layers[position].experts, ErrorKind::usage, "predictor \"", predictor,
                        "\": the trace uses expert ", expert, " of layer ", layers[position].layer, "; the model has ",
                        layers[position].experts, " there");
}

}  // namespace moestro::policy
