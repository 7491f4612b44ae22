// The list of predictors: adding one is its file and a line here.
#include "policy/predictor.h"

#include "base/error.h"
#include "policy/activation.h"
#include "policy/by_reach.h"
#include "policy/impact.h"
#include "policy/named.h"
#include "policy/next_gate.h"
#include "policy/no_prediction.h"
#include "policy/path.h"
#include "policy/pre_gated.h"
#include "policy/transition.h"

namespace moestro::policy {

namespace {

using Make = std::unique_ptr<Predictor>(const PredictorSettings&);

constexpr Named<Make> kKnown[] = {
    {"none", &make_no_prediction}, {"auto", &make_by_reach},         {"next_gate", &make_next_gate},
    {"impact", &make_impact},      {"transition", &make_transition}, {"activation", &make_activation},
    {"path", &make_path},          {"pre_gated", &make_pre_gated},
};

Make& find(std::string_view name) {
    return find_named(std::span<const Named<Make>>(kKnown), "predictor", name);
}

}  // namespace

void require_predictor(std::string_view name) {
    find(name);
}

std::unique_ptr<Predictor> make_predictor(std::string_view name, const PredictorSettings& settings) {
    return find(name)(settings);
}

const std::vector<std::string_view>& predictor_names() {
    static const std::vector<std::string_view> names = names_of(std::span<const Named<Make>>(kKnown));
    return names;
}

}  // namespace moestro::policy
