#include "policy/lru.h"

#include <cstdint>
#include <list>
#include <unordered_map>

#include "base/error.h"

namespace moestro::policy {

namespace {

struct HashId {
    std::size_t operator()(ExpertId id) const {
        const auto packed = static_cast<std::uint64_t>(static_cast<std::uint32_t>(id.layer)) << 32 |
                            static_cast<std::uint32_t>(id.expert);
        return static_cast<std::size_t>(packed * 0x9E3779B97F4A7C15u);
    }
};

class Lru final : public Eviction {
  public:
    std::string_view name() const override { return "lru"; }

    void on_insert(ExpertId id) override {
        order_.push_back(id);
        const bool is_new = at_.emplace(id, std::prev(order_.end())).second;
        MOESTRO_CHECK(is_new);
    }

    void on_use(ExpertId id) override {
        const auto found = at_.find(id);
        if (found != at_.end()) order_.splice(order_.end(), order_, found->second);
    }

    void on_evict(ExpertId id) override {
        const auto found = at_.find(id);
        MOESTRO_CHECK(found != at_.end());
        order_.erase(found->second);
        at_.erase(found);
    }

    std::optional<ExpertId> victim(const std::function<bool(ExpertId)>& evictable) const override {
        for (const ExpertId id : order_)
            if (evictable(id)) return id;
        return std::nullopt;
    }

  private:
    std::list<ExpertId> order_;  // least recently used first
    std::unordered_map<ExpertId, std::list<ExpertId>::iterator, HashId> at_;
};

}  // namespace

std::unique_ptr<Eviction> make_lru() {
    return std::make_unique<Lru>();
}

}  // namespace moestro::policy
