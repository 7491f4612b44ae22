// Steps of a planted trace, told to a predictor as a run tells them, and how much of what they used was foreseen.
#pragma once

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "policy/predictor.h"

namespace moestro::policy::testing {

// What a token uses: its experts in each layer with experts.
using Path = std::vector<std::vector<std::int32_t>>;

struct Row {
    std::int32_t token = -1;
    Path path;
};

inline ExpertSet every_layer(int layers, int experts) {
    ExpertSet set;
    for (int layer = 0; layer < layers; ++layer) set.layers.push_back({layer, experts});
    return set;
}

// Nothing is in memory, and a read takes long.
inline Outlook cold() {
    return {[](ExpertId) { return false; },
            {.cpu = {1e3, 1e2}, .cpu_start = 0, .device = {}, .link = 0, .ssd = 1e5},
            1e5,
            1e6};
}

inline PredictorSettings settings_of(const ExpertSet& experts, int top_k) {
    return {.experts = experts, .top_k = std::vector<int>(experts.layers.size(), top_k)};
}

inline RoutingTable table_of(std::span<const Row> rows) {
    RoutingTable table;
    table.top_k = static_cast<int>(rows.front().path.front().size());
    for (const Row& row : rows) table.tokens.push_back(row.token);
    for (std::size_t position = 0; position < rows.front().path.size(); ++position)
        for (const Row& row : rows)
            table.chosen.insert(table.chosen.end(), row.path[position].begin(), row.path[position].end());
    return table;
}

// What a router thinks of the rows: of every row the experts it lists, best first, each worth half of the one before.
struct Thinking {
    explicit Thinking(std::vector<std::vector<std::int32_t>> rows, int top_k) {
        for (const auto& row : rows) {
            float score = 0.5f;
            for (const std::int32_t expert : row) best.push_back({expert, std::exchange(score, score / 2)});
        }
        thought = {best, static_cast<int>(rows.size()), static_cast<int>(rows.front().size()), top_k};
    }
    Thinking(const Thinking&) = delete;

    std::vector<ScoredExpert> best;
    Thought thought;
};

// Of the step's rows, in the layer at `position`: what its router is said to have thought of them a layer earlier, best
// first.
using Ahead = std::function<std::vector<std::vector<std::int32_t>>(std::size_t position)>;

class Steps {
  public:
    Steps(Predictor& predictor, const PredictorSettings& settings)
        : predictor_(predictor), layers_(settings.experts.layers), top_k_(settings.top_k) {}

    // Hints by layer asked for, -1 first; all rows are accepted.
    std::map<int, std::vector<Hint>> run(std::span<const Row> rows, const Ahead& ahead = {}) {
        std::map<int, std::vector<Hint>> hints;
        begin(rows);
        ask(-1, hints);
        for (std::size_t position = 0; position < layers_.size(); ++position) {
            route(rows, position, ahead);
            ask(layers_[position].layer, hints);
        }
        accept(rows);
        return hints;
    }
    std::map<int, std::vector<Hint>> run(const Row& row, const Ahead& ahead = {}) { return run({&row, 1}, ahead); }

    void begin(std::span<const Row> rows) {
        std::vector<std::int32_t> tokens;
        for (const Row& row : rows) tokens.push_back(row.token);
        predictor_.on_step(tokens);
    }
    void route(std::span<const Row> rows, std::size_t position, const Ahead& ahead = {}) {
        std::vector<std::int32_t> ids;
        for (const Row& row : rows) ids.insert(ids.end(), row.path[position].begin(), row.path[position].end());
        const int layer = layers_[position].layer;
        predictor_.on_routing(layer, {ids, static_cast<int>(rows.size()), top_k_[position]});
        const std::size_t last = std::min(layers_.size() - 1, position + static_cast<std::size_t>(lookahead()));
        for (std::size_t target = position + 1; ahead && target <= last; ++target) {
            const Thinking thinking(ahead(target), top_k_[target]);
            predictor_.on_ahead(layer, layers_[target].layer, thinking.thought);
        }
    }
    void accept(std::span<const Row> rows) {
        for (const Row& row : rows) {
            predictor_.on_token(row.token);
            for (std::size_t position = 0; position < layers_.size(); ++position) {
                const std::set<std::int32_t> used(row.path[position].begin(), row.path[position].end());
                for (const std::int32_t expert : used) predictor_.on_use({layers_[position].layer, expert});
            }
        }
    }

  private:
    int lookahead() const { return predictor_.lookahead(); }
    void ask(int layer, std::map<int, std::vector<Hint>>& hints) { predictor_.predict(layer, cold(), hints[layer]); }

    Predictor& predictor_;
    const std::vector<ExpertSet::Layer> layers_;
    const std::vector<int> top_k_;
};

// Of the hints, those of a layer.
inline std::map<std::int32_t, float> of_layer(std::span<const Hint> hints, int layer) {
    std::map<std::int32_t, float> found;
    for (const Hint& hint : hints)
        if (hint.id.layer == layer) found.emplace(hint.id.expert, hint.probability);
    return found;
}

// The share of `used` that is among the layer's hints.
inline double recall(std::span<const Hint> hints, int layer, std::span<const std::int32_t> used) {
    const auto hinted = of_layer(hints, layer);
    const auto hits = std::count_if(used.begin(), used.end(), [&](std::int32_t one) { return hinted.contains(one); });
    return static_cast<double>(hits) / static_cast<double>(used.size());
}

// The share of the layer's hints that is in `used`; 1 where there are none.
inline double precision(std::span<const Hint> hints, int layer, std::span<const std::int32_t> used) {
    const auto hinted = of_layer(hints, layer);
    if (hinted.empty()) return 1;
    const auto hits = std::count_if(used.begin(), used.end(), [&](std::int32_t one) { return hinted.contains(one); });
    return static_cast<double>(hits) / static_cast<double>(hinted.size());
}

}  // namespace moestro::policy::testing
