// The list of policies: adding one is its file and a line here.
#include "policy/eviction.h"

#include <string>

#include "base/error.h"
#include "policy/lru.h"

namespace moestro::policy {

namespace {

struct Known {
    std::string_view name;
    std::unique_ptr<Eviction> (*make)();
};

constexpr Known kKnown[] = {
    {"lru", &make_lru},
};

}  // namespace

std::unique_ptr<Eviction> make_eviction(std::string_view name) {
    std::string names;
    for (const Known& known : kKnown) {
        if (known.name == name) return known.make();
        names += (names.empty() ? "" : ", ") + std::string(known.name);
    }
    fail(ErrorKind::usage, "unknown eviction policy \"", name, "\": choose one of ", names);
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
