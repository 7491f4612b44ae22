#include "policy/lru.h"

#include "base/error.h"
#include "policy/recency.h"

namespace moestro::policy {

namespace {

class Lru final : public Eviction {
  public:
    std::string_view name() const override { return "lru"; }

    void on_insert(ExpertId id) override {
        const bool is_new = residents_.touch(id);
        MOESTRO_CHECK(is_new);
    }
    void on_use(ExpertId id) override {
        if (residents_.has(id)) residents_.touch(id);
    }
    void on_evict(ExpertId id) override {
        const bool was_there = residents_.erase(id);
        MOESTRO_CHECK(was_there);
    }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId>) override {
        return residents_.oldest(evictable);
    }

  private:
    Recency residents_;
};

}  // namespace

std::unique_ptr<Eviction> make_lru(const EvictionSettings&) {
    return std::make_unique<Lru>();
}

}  // namespace moestro::policy
