// The list of predictors: adding one is its file and a line here.
#include "policy/predictor.h"

#include <string>

#include "base/error.h"
#include "policy/activation.h"
#include "policy/impact.h"
#include "policy/next_gate.h"
#include "policy/no_prediction.h"
#include "policy/path.h"
#include "policy/pre_gated.h"
#include "policy/transition.h"

namespace moestro::policy {

namespace {

struct Known {
    std::string_view name;
    std::unique_ptr<Predictor> (*make)(const PredictorSettings& settings);
};

constexpr Known kKnown[] = {
    {"none", &make_no_prediction},    {"next_gate", &make_next_gate},   {"impact", &make_impact},
    {"transition", &make_transition}, {"activation", &make_activation}, {"path", &make_path},
    {"pre_gated", &make_pre_gated},
};

const Known& find(std::string_view name) {
    std::string names;
    for (const Known& known : kKnown) {
        if (known.name == name) return known;
        names += (names.empty() ? "" : ", ") + std::string(known.name);
    }
    fail(ErrorKind::usage, "unknown predictor \"", name, "\": choose one of ", names);
}

}  // namespace

void require_predictor(std::string_view name) {
    find(name);
}

std::unique_ptr<Predictor> make_predictor(std::string_view name, const PredictorSettings& settings) {
    return find(name).make(settings);
}

const std::vector<std::string_view>& predictor_names() {
    static const std::vector<std::string_view> names = [] {
        std::vector<std::string_view> all;
        for (const Known& known : kKnown) all.push_back(known.name);
        return all;
    }();
    return names;
}

}  // namespace moestro::policy
