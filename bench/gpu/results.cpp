#include "results.h"

#include <cstdio>

namespace moestro::bench {

namespace {

std::string quoted(std::string_view text) {
    std::string made = "\"";
    for (const char letter : text) {
        if (letter == '"' || letter == '\\') made += '\\';
        made += letter;
    }
    return made + '"';
}

void line(const std::string& fields) {
    std::printf("{%s}\n", fields.c_str());
    std::fflush(stdout);
}

std::string head(std::string_view kind, std::string_view name) {
    return "\"kind\": " + quoted(kind) + ", \"name\": " + quoted(name);
}

}  // namespace

void Results::add(std::string_view kind, std::string_view name, const Figures& figures) const {
    std::string fields = head(kind, name), shown;
    char number[32];
    for (const auto& [key, value] : figures) {
        std::snprintf(number, sizeof number, "%.6g", value);
        fields += ", " + quoted(key) + ": " + number;
        std::snprintf(number, sizeof number, "%.4g", value);
        shown += "  " + key + " " + number;
    }
    line(fields);
    std::fprintf(stderr, "%-9.*s %-44.*s%s\n", static_cast<int>(kind.size()), kind.data(),
                 static_cast<int>(name.size()), name.data(), shown.c_str());
}

void Results::skip(std::string_view kind, std::string_view name, std::string_view why) const {
    line(head(kind, name) + ", \"skipped\": " + quoted(why));
    std::fprintf(stderr, "%-9.*s %-44.*s  not measured: %.*s\n", static_cast<int>(kind.size()), kind.data(),
                 static_cast<int>(name.size()), name.data(), static_cast<int>(why.size()), why.data());
}

void Results::about(const std::string& device, int major, int minor, int multiprocessors) const {
    line("\"kind\": \"device\", \"name\": " + quoted(device) + ", \"compute_capability\": \"" + std::to_string(major) +
         "." + std::to_string(minor) + "\", \"multiprocessors\": " + std::to_string(multiprocessors));
}

}  // namespace moestro::bench
