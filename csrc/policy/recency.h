// Experts in the order in which they were last touched.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <optional>
#include <unordered_map>

#include "base/types.h"

namespace moestro::policy {

struct HashExpert {
    std::size_t operator()(ExpertId id) const {
        const auto packed = static_cast<std::uint64_t>(static_cast<std::uint32_t>(id.layer)) << 32 |
                            static_cast<std::uint32_t>(id.expert);
        return static_cast<std::size_t>(packed * 0x9E3779B97F4A7C15u);
    }
};

class Recency {
  public:
    bool has(ExpertId id) const { return at_.contains(id); }
    int size() const { return static_cast<int>(at_.size()); }

    // Makes it the latest, whether it was there or not. True when it was not.
    bool touch(ExpertId id) {
        const auto found = at_.find(id);
        if (found != at_.end()) {
            order_.splice(order_.end(), order_, found->second);
            return false;
        }
        order_.push_back(id);
        at_.emplace(id, std::prev(order_.end()));
        return true;
    }
    // False when it was not there.
    bool erase(ExpertId id) {
        const auto found = at_.find(id);
        if (found == at_.end()) return false;
        order_.erase(found->second);
        at_.erase(found);
        return true;
    }
    // Drops the one that was touched longest ago. REQUIRES size() > 0
    void drop_oldest() { erase(order_.front()); }
    // The one touched longest ago of those for which `wanted` holds.
    std::optional<ExpertId> oldest(const std::function<bool(ExpertId)>& wanted) const {
        for (const ExpertId id : order_)
            if (wanted(id)) return id;
        return std::nullopt;
    }

  private:
    std::list<ExpertId> order_;  // longest ago first
    std::unordered_map<ExpertId, std::list<ExpertId>::iterator, HashExpert> at_;
};

}  // namespace moestro::policy
