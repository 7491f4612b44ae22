#include "policy/score.h"

#include <cmath>
#include <limits>

#include "base/error.h"
#include "policy/ranking.h"

namespace moestro::policy {

namespace {

// An S that gets nothing shrinks by the same factor as every other: only those that get something are touched. What is
// kept, and ordered by, is log2 S with the shrinking of its layer's tokens so far taken back; it orders as S does as
// long as all layers have seen the same tokens, which they have between steps.
class Score final : public Eviction {
  public:
    explicit Score(const ExpertSet& experts) : experts_(experts), tokens_(experts.layers.size()) {
        for (const ExpertSet::Layer& layer : experts.layers)
            keys_.emplace_back(static_cast<std::size_t>(layer.experts), -std::numeric_limits<double>::infinity());
    }

    std::string_view name() const override { return "score"; }
    bool wants_scores() const override { return true; }

    void on_scores(int layer, std::span<const ScoredExpert> best) override {
        const std::size_t position = experts_.position(layer);
        const double shrunk = kShrinking * static_cast<double>(++tokens_[position]);
        for (const auto& [expert, score] : best) {
            double& key = keys_[position][static_cast<std::size_t>(expert)];
            key = std::log2(kRecentShare * static_cast<double>(score) + std::exp2(key - shrunk)) + shrunk;
            residents_.update({layer, expert}, key, false);
        }
    }
    void on_insert(ExpertId id) override { residents_.insert(id, key(id)); }
    void on_use(ExpertId id) override { residents_.update(id, key(id), true); }
    void on_evict(ExpertId id) override { residents_.erase(id); }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId>) override {
        return residents_.smallest(evictable);
    }

  private:
    static inline const double kShrinking = -std::log2(1 - kRecentShare);

    double key(ExpertId id) const { return keys_[experts_.position(id.layer)][static_cast<std::size_t>(id.expert)]; }

    const ExpertSet experts_;
    std::vector<std::int64_t> tokens_;       // by position of the layer
    std::vector<std::vector<double>> keys_;  // of every expert, resident or not
    Ranking residents_;
};

}  // namespace

std::unique_ptr<Eviction> make_score(const EvictionSettings& settings) {
    return std::make_unique<Score>(settings.experts);
}

}  // namespace moestro::policy
