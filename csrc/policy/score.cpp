#include "policy/score.h"

#include "policy/fading.h"

namespace moestro::policy {

namespace {

class Score final : public Eviction {
  public:
    explicit Score(const ExpertSet& experts) : scores_(experts, 1 - kRecentShare) {}

    std::string_view name() const override { return "score"; }
    bool wants_scores() const override { return true; }

    void on_scores(int layer, std::span<const ScoredExpert> best) override {
        scores_.token(layer);
        for (const auto& [expert, score] : best)
            scores_.give({layer, expert}, kRecentShare * static_cast<double>(score));
    }
    void on_insert(ExpertId id) override { scores_.insert(id); }
    void on_use(ExpertId id) override { scores_.touch(id); }
    void on_evict(ExpertId id) override { scores_.erase(id); }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId>) override {
        return scores_.least(evictable);
    }

  private:
    Fading scores_;
};

}  // namespace

std::unique_ptr<Eviction> make_score(const EvictionSettings& settings) {
    return std::make_unique<Score>(settings.experts);
}

}  // namespace moestro::policy
