// Of every expert a sum of what it was given, all of which fades by the same factor with each token of its layer; and
// the resident ones in that order.
//
// A sum that gets nothing shrinks as all others do: only those that get something are touched. What is kept, and
// ordered by, is log2 of the sum with the fading of its layer's tokens so far taken back; it orders as the sums do as
// long as all layers have seen the same tokens, which they have between steps.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <vector>

#include "policy/eviction.h"
#include "policy/ranking.h"

namespace moestro::policy {

class Fading {
  public:
    // kept: the factor, below 1.
    Fading(const ExpertSet& experts, double kept)
        : experts_(experts), faded_(-std::log2(kept)), tokens_(experts.layers.size()) {
        for (const ExpertSet::Layer& layer : experts.layers)
            keys_.emplace_back(static_cast<std::size_t>(layer.experts), -std::numeric_limits<double>::infinity());
    }

    // A token of the layer: all that was given before fades.
    void token(int layer) { ++tokens_[experts_.position(layer)]; }
    void give(ExpertId id, double amount) {
        const std::size_t position = experts_.position(id.layer);
        const double faded = faded_ * static_cast<double>(tokens_[position]);
        double& key = keys_[position][static_cast<std::size_t>(id.expert)];
        key = std::log2(amount + std::exp2(key - faded)) + faded;
        residents_.update(id, key, false);
    }

    void insert(ExpertId id) { residents_.insert(id, key(id)); }
    void touch(ExpertId id) { residents_.update(id, key(id), true); }
    void erase(ExpertId id) { residents_.erase(id); }
    std::optional<ExpertId> least(const Evictable& evictable) const { return residents_.smallest(evictable); }

  private:
    double key(ExpertId id) const { return keys_[experts_.position(id.layer)][static_cast<std::size_t>(id.expert)]; }

    const ExpertSet experts_;
    const double faded_;                     // log2, by a token
    std::vector<std::int64_t> tokens_;       // by position of the layer
    std::vector<std::vector<double>> keys_;  // of every expert, resident or not
    Ranking residents_;
};

}  // namespace moestro::policy
