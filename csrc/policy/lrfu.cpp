#include "policy/lrfu.h"

#include "policy/fading.h"

namespace moestro::policy {

namespace {

class Lrfu final : public Eviction {
  public:
    explicit Lrfu(const ExpertSet& experts) : experts_(experts), uses_(experts, 1 - kForgotten) {}

    std::string_view name() const override { return "lrfu"; }

    void on_token() override {
        for (const ExpertSet::Layer& layer : experts_.layers) uses_.token(layer.layer);
    }
    void on_insert(ExpertId id) override { uses_.insert(id); }
    void on_use(ExpertId id) override {
        uses_.give(id, 1);
        uses_.touch(id);
    }
    void on_evict(ExpertId id) override { uses_.erase(id); }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId>) override {
        return uses_.least(evictable);
    }

  private:
    const ExpertSet experts_;
    Fading uses_;
};

}  // namespace

std::unique_ptr<Eviction> make_lrfu(const EvictionSettings& settings) {
    return std::make_unique<Lrfu>(settings.experts);
}

}  // namespace moestro::policy
