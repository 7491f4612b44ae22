// The list of policies: adding one is its file and a line here.
#include "policy/eviction.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "policy/fixed.h"
#include "policy/lfu.h"
#include "policy/lrfu.h"
#include "policy/lru.h"
#include "policy/score.h"
#include "policy/shallow.h"
#include "policy/workload.h"

namespace moestro::policy {

namespace {

struct Known {
    std::string_view name;
    std::unique_ptr<Eviction> (*make)(const EvictionSettings& settings);
};

constexpr Known kKnown[] = {
    {"lru", &make_lru},         {"lfu", &make_lfu},       {"lrfu", &make_lrfu},         {"score", &make_score},
    {"shallow", &make_shallow}, {"static", &make_static}, {"workload", &make_workload},
};

const Known& find(std::string_view name) {
    std::string names;
    for (const Known& known : kKnown) {
        if (known.name == name) return known;
        names += (names.empty() ? "" : ", ") + std::string(known.name);
    }
    fail(ErrorKind::usage, "unknown eviction policy \"", name, "\": choose one of ", names);
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
    return find(name).make(settings);
}

const std::vector<std::string_view>& eviction_names() {
    static const std::vector<std::string_view> names = [] {
        std::vector<std::string_view> all;
        for (const Known& known : kKnown) all.push_back(known.name);
        return all;
    }();
    return names;
}

}  // namespace moestro::policy
