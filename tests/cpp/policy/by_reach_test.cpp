// The predictor that reaches as far as it must.
#include "policy/by_reach.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "policy/impact.h"
#include "policy/predictions.h"

namespace moestro::policy {
namespace {

using testing::cold;
using testing::every_layer;
using testing::settings_of;

// What a predictor says after the first layer's router ran and two later ones were asked early.
std::vector<ExpertId> said(Predictor& predictor, double layer_ns) {
    const std::vector<std::vector<std::int32_t>> rows{{1, 2, 3, 4}};
    const std::vector<ScoredExpert> best = [&] {
        std::vector<ScoredExpert> all;
        for (const std::int32_t expert : rows[0]) all.push_back({expert, 1.0f / static_cast<float>(1 << all.size())});
        return all;
    }();
    predictor.on_step(std::array<std::int32_t, 1>{7});
    predictor.on_routing(0, {rows[0], 1, 2});
    for (const int target : {1, 2}) predictor.on_ahead(0, target, {best, 1, 4, 2});
    Outlook outlook = cold();
    outlook.layer_ns = layer_ns;
    std::vector<Hint> hints;
    predictor.predict(0, outlook, hints);
    std::vector<ExpertId> ids;
    for (const Hint& hint : hints) ids.push_back(hint.id);
    return ids;
}

TEST(ByReach, LooksFartherWhereARecordTakesLongerThanALayer) {
    const PredictorSettings settings = settings_of(every_layer(4, 8), 2);
    const auto fresh = [&](std::string_view name) { return make_predictor(name, settings); };
    EXPECT_EQ(fresh("auto")->lookahead(), kImpactLayers);
    const double record = cold().record_ns;
    EXPECT_EQ(said(*fresh("auto"), 2 * record), said(*fresh("next_gate"), 0));
    EXPECT_EQ(said(*fresh("auto"), record / 2), said(*fresh("impact"), 0));
    EXPECT_NE(said(*fresh("next_gate"), 0), said(*fresh("impact"), 0));
}

}  // namespace
}  // namespace moestro::policy
