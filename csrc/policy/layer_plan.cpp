#include "policy/layer_plan.h"

#include <cstdio>

namespace moestro::policy {

namespace {

constexpr double kNanosPerMicro = 1000;

// Columns of one width each.
std::string line(const char* lane, const std::string& expert, const std::string& begin, const std::string& end) {
    char text[96];
    std::snprintf(text, sizeof text, "%-8s %6s %12s %12s\n", lane, expert.c_str(), begin.c_str(), end.c_str());
    return text;
}

std::string micros(double nanos) {
    char text[32];
    std::snprintf(text, sizeof text, "%.1f", nanos / kNanosPerMicro);
    return text;
}

}  // namespace

const char* name_of(Lane lane) {
    static constexpr const char* kNames[kLanes] = {"ssd", "link", "cpu", "device"};
    return kNames[static_cast<std::size_t>(lane)];
}

std::string table(const LayerPlan& plan) {
    std::string made = line("lane", "expert", "begin us", "end us");
    for (const Operation& one : plan.operations)
        made += line(name_of(one.lane), std::to_string(one.expert), micros(one.begin), micros(one.end));
    return made + line("all", "", "", micros(plan.makespan));
}

}  // namespace moestro::policy
