#include "policy/belady.h"

#include <algorithm>
#include <limits>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "policy/recency.h"

namespace moestro::policy {

std::int64_t belady_misses(std::span<const ExpertId> accesses, int records, std::span<const std::size_t> groups,
                           std::size_t first) {
    constexpr std::int64_t kNever = std::numeric_limits<std::int64_t>::max();
    const std::size_t counted =
        first == 0 || groups.empty() ? std::min(first, accesses.size()) : groups[std::min(first, groups.size()) - 1];
    // Uses before are free: what is kept then is kept for those that count.
    std::vector<std::int64_t> next(accesses.size());
    std::unordered_map<ExpertId, std::int64_t, HashExpert> later;
    for (std::size_t i = accesses.size(); i-- > 0;) {
        const auto found = later.find(accesses[i]);
        next[i] = found == later.end() ? kNever : found->second;
        if (i >= counted) later[accesses[i]] = static_cast<std::int64_t>(i);
    }
    std::set<std::pair<std::int64_t, ExpertId>> resident;  // by next use
    std::unordered_map<ExpertId, std::int64_t, HashExpert> at;
    std::int64_t misses = 0;
    const std::size_t count = groups.empty() ? accesses.size() : groups.size();
    std::size_t i = 0;
    for (std::size_t group = 0; group < count; ++group) {
        for (const std::size_t end = groups.empty() ? i + 1 : groups[group]; i < end; ++i) {
            const ExpertId id = accesses[i];
            const auto found = at.find(id);
            if (found != at.end()) {
                resident.erase({found->second, id});
                at.erase(found);
            } else if (group >= first) {
                ++misses;
            }
            if (next[i] == kNever) continue;  // nobody will want it again
            resident.insert({next[i], id});
            at[id] = next[i];
        }
        while (static_cast<int>(resident.size()) > records) {
            const auto furthest = std::prev(resident.end());
            at.erase(furthest->second);
            resident.erase(furthest);
        }
    }
    return misses;
}

}  // namespace moestro::policy
