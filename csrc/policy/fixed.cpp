#include "policy/fixed.h"

#include "base/error.h"
#include "policy/ranking.h"

namespace moestro::policy {

namespace {

class Static final : public Eviction {
  public:
    explicit Static(const EvictionSettings& settings) : experts_(settings.experts), uses_(settings.frequencies) {
        int first = 0;
        for (const ExpertSet::Layer& layer : experts_.layers) {
            first_.push_back(first);
            first += layer.experts;
        }
    }

    std::string_view name() const override { return "static"; }

    void on_insert(ExpertId id) override { residents_.insert(id, key(id)); }
    void on_use(ExpertId id) override { residents_.update(id, key(id), true); }
    void on_evict(ExpertId id) override { residents_.erase(id); }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId>) override {
        return residents_.smallest(evictable);
    }

  private:
    double key(ExpertId id) const {
        return uses_[static_cast<std::size_t>(first_[experts_.position(id.layer)] + id.expert)];
    }

    const ExpertSet experts_;
    const std::vector<double> uses_;
    std::vector<int> first_;  // number of a layer's first expert
    Ranking residents_;
};

}  // namespace

std::unique_ptr<Eviction> make_static(const EvictionSettings& settings) {
    require(settings.frequencies.size() == static_cast<std::size_t>(settings.experts.experts()), ErrorKind::usage,
            "eviction policy \"static\" keeps the experts that a trace used most: give it a trace of this model, with ",
            settings.experts.experts(), " frequencies; got ", settings.frequencies.size());
    return std::make_unique<Static>(settings);
}

}  // namespace moestro::policy
