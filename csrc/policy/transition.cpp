#include "policy/transition.h"

#include <algorithm>

#include "base/error.h"
#include "policy/routing_table.h"
#include "policy/row_union.h"
#include "policy/transition_tables.h"
#include "policy/upcoming.h"

namespace moestro::policy {

namespace {

float odds(float share) {
    constexpr float kLeast = 1e-4f;  // nothing is certain: a trace ends
    const float within = std::clamp(share, kLeast, 1 - kLeast);
    return within / (1 - within);
}

class Transition final : public Predictor {
  public:
    explicit Transition(const PredictorSettings& settings)
        : experts_(settings.experts), top_k_(settings.top_k), tables_(settings.experts, settings.trace) {}

    std::string_view name() const override { return "transition"; }

    void on_step(std::span<const std::int32_t> tokens) override {
        tokens_.assign(tokens.begin(), tokens.end());
        routed_ = -1;
    }
    void on_routing(int layer, const Chosen& chosen) override {
        MOESTRO_CHECK(static_cast<std::size_t>(chosen.rows) == tokens_.size());
        routed_ = layer;
        chosen_.assign(chosen.ids.begin(), chosen.ids.end());
    }
    void predict(int layer, const Outlook&, std::vector<Hint>& hints) override {
        const Positions ahead = upcoming(experts_, layer, kHorizon);
        for (std::size_t position = ahead.first; position < ahead.last; ++position) {
            const bool is_next = position == ahead.first && layer >= 0 && routed_ == layer;
            RowUnion expected(experts_.layers[position].experts);
            for (std::size_t row = 0; row < tokens_.size(); ++row) expect(position, row, is_next, expected);
            expected.append(experts_.layers[position].layer, 0, hints);
        }
    }

  private:
    void expect(std::size_t position, std::size_t row, bool is_next, RowUnion& expected) {
        if (!is_next && !tables_.knows(tokens_[row])) return;
        shares_.resize(static_cast<std::size_t>(experts_.layers[position].experts));
        tables_.of_token(position, tokens_[row], shares_);
        if (is_next) correct(position, row);

        const std::size_t most = static_cast<std::size_t>(kTransitionShare * top_k_[position]);
        best_.clear();
        for (std::size_t expert = 0; expert < shares_.size(); ++expert)
            if (shares_[expert] >= kLeastTransition) best_.push_back(static_cast<std::int32_t>(expert));
        if (best_.size() > most) {
            std::nth_element(best_.begin(), best_.begin() + static_cast<std::ptrdiff_t>(most), best_.end(),
                             [this](std::int32_t one, std::int32_t other) {
                                 return share(one) != share(other) ? share(one) > share(other) : one < other;
                             });
            best_.resize(most);
        }
        for (const std::int32_t expert : best_) expected.add(expert, share(expert));
    }

    // shares_, by what the row used in the layer before.
    void correct(std::size_t position, std::size_t row) {
        const std::size_t top_k = chosen_.size() / tokens_.size();
        after_.resize(shares_.size());
        tables_.after(position, std::span(chosen_).subspan(row * top_k, top_k), after_);
        const auto popularity = tables_.of_all(position);
        for (std::size_t expert = 0; expert < shares_.size(); ++expert) {
            const float both = odds(shares_[expert]) * odds(after_[expert]) / odds(popularity[expert]);
            shares_[expert] = both / (1 + both);
        }
    }

    float share(std::int32_t expert) const { return shares_[static_cast<std::size_t>(expert)]; }

    const ExpertSet experts_;
    const std::vector<int> top_k_;
    const TransitionTables tables_;
    std::vector<std::int32_t> tokens_, chosen_;  // of the step's rows; chosen in routed_
    int routed_ = -1;
    std::vector<float> shares_, after_;  // of one row in one layer
    std::vector<std::int32_t> best_;
};

}  // namespace

std::unique_ptr<Predictor> make_transition(const PredictorSettings& settings) {
    require(settings.trace.count() > 0, ErrorKind::usage,
            "predictor \"transition\" counts in a trace: give it a routing trace of this model");
    require_table("transition", settings);
    return std::make_unique<Transition>(settings);
}

}  // namespace moestro::policy
