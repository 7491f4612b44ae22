// That some row of a step uses an expert of a layer, from what is expected of each row: 1 - prod(1 - p), as if rows did
// not know of each other.
#pragma once

#include <cstddef>
#include <vector>

#include "policy/predictor.h"

namespace moestro::policy {

class RowUnion {
  public:
    explicit RowUnion(int experts) : unused_(static_cast<std::size_t>(experts), 1.0f) {}

    // One more row uses the expert with this probability, in [0, 1].
    void add(std::int32_t expert, float probability) { unused_[static_cast<std::size_t>(expert)] *= 1 - probability; }

    // Appends the layer's experts that are at least so likely.
    void append(int layer, float least, std::vector<Hint>& hints) const {
        for (std::size_t expert = 0; expert < unused_.size(); ++expert) {
            const float probability = 1 - unused_[expert];
            if (probability > 0 && probability >= least)
                hints.push_back({.id = {layer, static_cast<std::int32_t>(expert)}, .probability = probability});
        }
    }

  private:
    std::vector<float> unused_;  // that no row uses it
};

}  // namespace moestro::policy
