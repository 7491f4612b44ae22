// The list of planners: adding one is its file and a line here.
#include "policy/planner.h"

#include <string>

#include "base/error.h"
#include "policy/greedy_01.h"
#include "policy/hybrid.h"
#include "policy/on_demand.h"
#include "policy/static_split.h"

namespace moestro::policy {

namespace {

struct Known {
    std::string_view name;
    std::unique_ptr<Planner> (*make)();
};

constexpr Known kKnown[] = {
    {"hybrid", &make_hybrid},
    {"greedy_01", &make_greedy_01},
    {"static", &make_static_split},
    {"on_demand", &make_on_demand},
};

const Known& find(std::string_view name) {
    std::string names;
    for (const Known& known : kKnown) {
        if (known.name == name) return known;
        names += (names.empty() ? "" : ", ") + std::string(known.name);
    }
    fail(ErrorKind::usage, "unknown planner \"", name, "\": choose one of ", names);
}

}  // namespace

void require_planner(std::string_view name) {
    find(name);
}

std::unique_ptr<Planner> make_planner(std::string_view name) {
    return find(name).make();
}

const std::vector<std::string_view>& planner_names() {
    static const std::vector<std::string_view> names = [] {
        std::vector<std::string_view> all;
        for (const Known& known : kKnown) all.push_back(known.name);
        return all;
    }();
    return names;
}

}  // namespace moestro::policy
