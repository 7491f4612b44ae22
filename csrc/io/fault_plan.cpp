#include <array>
#include <cerrno>
#include <charconv>
#include <string_view>

#include "base/error.h"
#include "io/faulty_reader.h"

namespace moestro::io {

namespace {

using Fault = FaultPlan::Fault;

struct FaultWord {
    std::string_view name;
    Fault::Kind kind;
    int error;
};
constexpr std::array kFaultWords{
    FaultWord{"eio", Fault::Kind::error, EIO},
    FaultWord{"enxio", Fault::Kind::error, ENXIO},
    FaultWord{"etimedout", Fault::Kind::error, ETIMEDOUT},
    FaultWord{"short", Fault::Kind::shorten, 0},
    FaultWord{"flip", Fault::Kind::flip, 0},
};

[[noreturn]] void refuse(std::string_view word) {
    fail(ErrorKind::usage, "fault plan: \"", word,
         "\" is none of eio@N, enxio@N, etimedout@N, short@N, flip@N, gate, gate@N (reads count from N = 1)");
}

std::uint64_t number_in(std::string_view digits, std::string_view word) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (error != std::errc() || end != digits.data() + digits.size() || number == 0) refuse(word);
    return number;
}

void add(FaultPlan& plan, std::string_view word) {
    if (word == "gate") {
        plan.gate_from = 1;
        return;
    }
    const std::size_t at = word.find('@');
    if (at == std::string_view::npos) refuse(word);
    const std::string_view name = word.substr(0, at);
    const std::uint64_t read = number_in(word.substr(at + 1), word);
    if (name == "gate") {
        plan.gate_from = read;
        return;
    }
    for (const FaultWord& known : kFaultWords)
        if (known.name == name) {
            plan.faults.push_back({.kind = known.kind, .read = read, .error = known.error});
            return;
        }
    refuse(word);
}

}  // namespace

FaultPlan FaultPlan::parse(const std::string& words) {
    FaultPlan plan;
    plan.words = words;
    std::string_view left = words;
    while (!left.empty()) {
        const std::size_t comma = left.find(',');
        add(plan, left.substr(0, comma));
        if (comma == std::string_view::npos) break;
        left.remove_prefix(comma + 1);
        if (left.empty()) refuse("");
    }
    return plan;
}

}  // namespace moestro::io
