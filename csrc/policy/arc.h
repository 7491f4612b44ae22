// Adaptive replacement (Megiddo and Modha, FAST 2003) over the experts of one layer: those used once and those used
// more often have a list each, and each list remembers as many that left it. A miss on a remembered one shows which of
// the two lists is too short.
#pragma once

#include <algorithm>
#include <optional>

#include "policy/eviction.h"
#include "policy/recency.h"

namespace moestro::policy {

class Arc {
  public:
    void set_capacity(int records) {
        capacity_ = records;
        target_ = std::min(target_, static_cast<double>(records));
        trim();
    }
    int capacity() const { return capacity_; }
    int resident() const { return once_.size() + often_.size(); }

    void insert(ExpertId id) {
        target_ = target_for(id);
        const bool known = once_left_.erase(id) || often_left_.erase(id);
        (known ? often_ : once_).touch(id);
        fresh_.touch(id);
        asked_.reset();
        trim();
    }
    // A use right after the load that it caused is the first one.
    void use(ExpertId id) {
        if (fresh_.erase(id)) return;
        if (once_.erase(id) || often_.has(id)) often_.touch(id);
    }
    void evict(ExpertId id) {
        fresh_.erase(id);
        if (once_.erase(id))
            once_left_.touch(id);
        else if (often_.erase(id))
            often_left_.touch(id);
        trim();
    }
    std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId> incoming) {
        if (incoming && asked_ != incoming) {  // before anything leaves: what leaves is remembered too
            target_of_asked_ = target_for(*incoming);
            asked_ = incoming;
        }
        const double target = incoming ? target_of_asked_ : target_;
        const bool exactly = incoming && often_left_.has(*incoming) && once_.size() >= target;
        const bool from_once = once_.size() > 0 && (once_.size() > target || exactly);
        const auto first = (from_once ? once_ : often_).oldest(evictable);
        return first ? first : (from_once ? often_ : once_).oldest(evictable);
    }

  private:
    // How long the list of those used once should be, once `id` has come.
    double target_for(ExpertId id) const {
        if (asked_ == id) return target_of_asked_;
        const double once = once_left_.size(), often = often_left_.size();
        if (once_left_.has(id)) return std::min<double>(capacity_, target_ + std::max(1.0, often / once));
        if (often_left_.has(id)) return std::max(0.0, target_ - std::max(1.0, once / often));
        return target_;
    }
    void trim() {
        while (once_left_.size() > 0 && once_.size() + once_left_.size() > capacity_) once_left_.drop_oldest();
        while (often_left_.size() > 0 && resident() + once_left_.size() + often_left_.size() > 2 * capacity_)
            often_left_.drop_oldest();
    }

    int capacity_ = 0;
    double target_ = 0;
    Recency once_, often_;            // resident
    Recency once_left_, often_left_;  // remembered
    Recency fresh_;                   // resident, and not used yet
    std::optional<ExpertId> asked_;   // the incoming one that room is being made for
    double target_of_asked_ = 0;
};

}  // namespace moestro::policy
