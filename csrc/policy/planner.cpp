// The list of planners: adding one is its file and a line here.
#include "policy/planner.h"

#include "base/error.h"
#include "policy/by_place.h"
#include "policy/greedy_01.h"
#include "policy/hybrid.h"
#include "policy/named.h"

namespace moestro::policy {

namespace {

using Make = std::unique_ptr<Planner>();

constexpr Named<Make> kKnown[] = {
    {"hybrid", &make_hybrid},       {"greedy_01", &make_greedy_01}, {"static", &make_static_split},
    {"on_demand", &make_on_demand}, {"cpu", &make_cpu_only},
};

Make& find(std::string_view name) {
    return find_named(std::span<const Named<Make>>(kKnown), "planner", name);
}

}  // namespace

void require_planner(std::string_view name) {
    find(name);
}

std::unique_ptr<Planner> make_planner(std::string_view name) {
    return find(name)();
}

const std::vector<std::string_view>& planner_names() {
    static const std::vector<std::string_view> names = names_of(std::span<const Named<Make>>(kKnown));
    return names;
}

}  // namespace moestro::policy
