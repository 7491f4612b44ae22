// Things that are chosen by name: a list of (name, how it is made), and what is said of a name that is not in it.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace moestro::policy {

template <class Make>
struct Named {
    std::string_view name;
    Make* make = nullptr;
};

// what: "eviction policy". Throws Error(usage) naming the known ones.
template <class Make>
Make& find_named(std::span<const Named<Make>> all, std::string_view what, std::string_view name) {
    std::string names;
    for (const Named<Make>& one : all) {
        if (one.name == name) return *one.make;
        names += (names.empty() ? "" : ", ") + std::string(one.name);
    }
    fail(ErrorKind::usage, "unknown ", what, " \"", name, "\": choose one of ", names);
}

template <class Make>
std::vector<std::string_view> names_of(std::span<const Named<Make>> all) {
    std::vector<std::string_view> names;
    for (const Named<Make>& one : all) names.push_back(one.name);
    return names;
}

}  // namespace moestro::policy
