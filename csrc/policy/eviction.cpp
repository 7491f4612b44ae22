// The list of policies: adding one is its file and a line here.
#include "policy/eviction.h"

#include <algorithm>

#include "base/error.h"
#include "policy/fixed.h"
#include "policy/lfu.h"
#include "policy/lrfu.h"
#include "policy/lru.h"
#include "policy/named.h"
#include "policy/score.h"
#include "policy/shallow.h"
#include "policy/workload.h"

namespace moestro::policy {

namespace {

using Make = std::unique_ptr<Eviction>(const EvictionSettings&);

constexpr Named<Make> kKnown[] = {
    {"lru", &make_lru},         {"lfu", &make_lfu},       {"lrfu", &make_lrfu},         {"score", &make_score},
    {"shallow", &make_shallow}, {"static", &make_static}, {"workload", &make_workload},
};

Make& find(std::string_view name) {
    return find_named(std::span<const Named<Make>>(kKnown), "eviction policy", name);
}

}  // namespace

int ExpertSet::experts() const {
    int count = 0;
    for (const Layer& layer : layers) count += layer.experts;
    return count;
}

std::size_t ExpertSet::position(int layer) const {
    const auto found = std::lower_bound(layers.begin(), layers.end(), layer,
                                        [](const Layer& one, int wanted) { return one.layer < wanted; });
    MOESTRO_CHECK(found != layers.end() && found->layer == layer);
    return static_cast<std::size_t>(found - layers.begin());
}

void require_eviction(std::string_view name) {
    find(name);
}

std::unique_ptr<Eviction> make_eviction(std::string_view name, const EvictionSettings& settings) {
    return find(name)(settings);
}

const std::vector<std::string_view>& eviction_names() {
    static const std::vector<std::string_view> names = names_of(std::span<const Named<Make>>(kKnown));
    return names;
}

}  // namespace moestro::policy
