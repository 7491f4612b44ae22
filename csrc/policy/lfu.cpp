#include "policy/lfu.h"

#include "policy/ranking.h"

namespace moestro::policy {

namespace {

class Lfu final : public Eviction {
  public:
    std::string_view name() const override { return "lfu"; }

    void on_insert(ExpertId id) override { residents_.insert(id, static_cast<double>(uses_[id])); }
    void on_use(ExpertId id) override { residents_.update(id, static_cast<double>(++uses_[id]), true); }
    void on_evict(ExpertId id) override { residents_.erase(id); }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId>) override {
        return residents_.smallest(evictable);
    }

  private:
    Ranking residents_;
    std::unordered_map<ExpertId, std::int64_t, HashExpert> uses_;
};

}  // namespace

std::unique_ptr<Eviction> make_lfu(const EvictionSettings&) {
    return std::make_unique<Lfu>();
}

}  // namespace moestro::policy
