// The network of the predictor "path", for one row at a time:
//     state         = tanh(hidden [token's embedding; context] + hidden_bias)
//     P(e is used)  = sigmoid(output[e] state + output_bias[e])        for every expert e of every layer
// and, once a layer has routed,
//     state        += sum over the layer's experts of correction[e] (used(e) - P(e is used)),
// which moves what is expected of the layers after it. The context is what came before, a moving average of embeddings:
//     context       = 0.8 context + 0.2 embedding.
#pragma once

#include <span>
#include <vector>

#include "policy/predictor.h"

namespace moestro::policy {

class PathModel {
  public:
    static constexpr float kContextDecay = 0.8f;

    // Throws Error(usage) unless the weights are of this set of experts.
    PathModel(const ExpertSet& experts, const PathWeights& weights);

    int width() const { return weights_.width; }
    // Context and state have width() values. A token that is not in the vocabulary has an embedding of zeros.
    void read(std::int32_t token, std::span<float> context) const;
    // The state of a row whose token was read into `context` last.
    void begin(std::int32_t token, std::span<const float> context, std::span<float> state) const;
    // Of all experts of the layer at `position`.
    void probabilities(std::size_t position, std::span<const float> state, std::span<float> out) const;
    // The layer at `position` used `chosen`, each once.
    void correct(std::size_t position, std::span<const std::int32_t> chosen, std::span<float> state);

  private:
    std::span<const float> embedding(std::int32_t token) const;

    const PathWeights weights_;
    const std::vector<float> unknown_;  // embedding
    std::vector<std::size_t> first_;    // number of a layer's first expert, and of all
    std::vector<float> errors_;         // of the experts of one layer
};

}  // namespace moestro::policy
