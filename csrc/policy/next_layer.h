// What the router of the next layer makes of a layer's router input, kept until hints are asked for: what predictors
// that look one layer ahead have in common.
#pragma once

#include <optional>
#include <utility>

#include "policy/predictor.h"
#include "policy/row_union.h"
#include "policy/upcoming.h"

namespace moestro::policy {

class NextLayer : public Predictor {
  public:
    int lookahead() const final { return 1; }

    void on_step(std::span<const std::int32_t>) final { expected_.reset(); }
    void on_ahead(int layer, int target, const Thought& thought) final {
        const Positions next = upcoming(experts_, layer, 1);
        if (next.first == next.last || experts_.layers[next.first].layer != target) return;
        expected_.emplace(Expected{layer, target, RowUnion(experts_.layers[next.first].experts)});
        for (int row = 0; row < thought.rows; ++row)
            for (int rank = 0; rank < thought.kept; ++rank)
                expected_->rows.add(thought.of(row)[static_cast<std::size_t>(rank)].expert,
                                    probability(thought, row, rank));
    }
    void predict(int layer, const Outlook&, std::vector<Hint>& hints) final {
        if (expected_ && expected_->layer == layer) expected_->rows.append(expected_->target, 0, hints);
    }

  protected:
    explicit NextLayer(ExpertSet experts) : experts_(std::move(experts)) {}

  private:
    struct Expected {
        int layer, target;
        RowUnion rows;
    };

    // That the row uses the `rank`-th best of those thought of; 0: not worth a hint.
    virtual float probability(const Thought& thought, int row, int rank) const = 0;

    const ExpertSet experts_;
    std::optional<Expected> expected_;
};

}  // namespace moestro::policy
