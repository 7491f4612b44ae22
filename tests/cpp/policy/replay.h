// A cache of equal records in a few lines: what a policy makes of a trace, one token after the other.
#pragma once

#include <algorithm>
#include <set>
#include <span>
#include <vector>

#include "policy/eviction.h"

namespace moestro::policy::testing {

struct Access {  // of one token in one layer
    int layer = 0;
    std::vector<std::int32_t> experts;  // ascending
    std::vector<ScoredExpert> best = {};
};
using Token = std::vector<Access>;

inline std::vector<ExpertId> flat(std::span<const Token> tokens) {
    std::vector<ExpertId> all;
    for (const Token& token : tokens)
        for (const Access& access : token)
            for (const std::int32_t expert : access.experts) all.push_back({access.layer, expert});
    return all;
}

class Replay {
  public:
    Replay(Eviction& policy, int capacity) : policy_(policy), capacity_(capacity) { policy.on_capacity(capacity); }

    void run(const Token& token) {
        for (const Access& access : token) {
            for (const std::int32_t expert : access.experts) pinned_.insert({access.layer, expert});
            for (const std::int32_t expert : access.experts) demand({access.layer, expert});
            pinned_.clear();
        }
        policy_.on_token();
        for (const Access& access : token) {
            if (policy_.wants_scores()) policy_.on_scores(access.layer, access.best);
            for (const std::int32_t expert : access.experts) policy_.on_use({access.layer, expert});
        }
    }
    std::int64_t run(std::span<const Token> tokens) {
        for (const Token& token : tokens) run(token);
        return misses;
    }
    bool has(ExpertId id) const { return resident.contains(id); }

    std::set<ExpertId> resident;
    std::int64_t misses = 0;

  private:
    void demand(ExpertId id) {
        if (resident.contains(id)) return;
        ++misses;
        if (static_cast<int>(resident.size()) == capacity_) {
            const auto victim = policy_.victim([&](ExpertId one) { return !pinned_.contains(one); }, id);
            resident.erase(victim.value());
            policy_.on_evict(*victim);
        }
        resident.insert(id);
        policy_.on_insert(id);
    }

    Eviction& policy_;
    const int capacity_;
    std::set<ExpertId> pinned_;
};

// One expert of one layer after the other, a token each.
inline std::vector<Token> one_by_one(int layer, std::initializer_list<std::int32_t> experts) {
    std::vector<Token> tokens;
    for (const std::int32_t expert : experts) tokens.push_back({{layer, {expert}, {{expert, 1.0f}}}});
    return tokens;
}

}  // namespace moestro::policy::testing
