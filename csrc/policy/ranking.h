// Resident experts by a key each, the smallest first; of equal keys the one that was touched longest ago.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <tuple>
#include <unordered_map>

#include "base/error.h"
#include "policy/recency.h"

namespace moestro::policy {

class Ranking {
  public:
    bool has(ExpertId id) const { return at_.contains(id); }

    void insert(ExpertId id, double key) {
        const Place place{key, ++now_, id};
        const bool is_new = at_.emplace(id, place).second;
        MOESTRO_CHECK(is_new);
        order_.insert(place);
    }
    void erase(ExpertId id) {
        const auto found = at_.find(id);
        MOESTRO_CHECK(found != at_.end());
        order_.erase(found->second);
        at_.erase(found);
    }
    // Does nothing for one that is not there. touch: it counts as touched now.
    void update(ExpertId id, double key, bool touch) {
        const auto found = at_.find(id);
        if (found == at_.end()) return;
        Place place = found->second;
        order_.erase(place);
        std::get<0>(place) = key;
        if (touch) std::get<1>(place) = ++now_;
        order_.insert(place);
        found->second = place;
    }
    std::optional<ExpertId> smallest(const std::function<bool(ExpertId)>& wanted) const {
        for (const auto& [key, touched, id] : order_)
            if (wanted(id)) return id;
        return std::nullopt;
    }

  private:
    using Place = std::tuple<double, std::int64_t, ExpertId>;  // key, when touched

    std::set<Place> order_;
    std::unordered_map<ExpertId, Place, HashExpert> at_;
    std::int64_t now_ = 0;
};

}  // namespace moestro::policy
