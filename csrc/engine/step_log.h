// What a step routed where, kept until it is known which of its rows count.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"
#include "policy/eviction.h"
#include "policy/predictor.h"
#include "policy/routing_record.h"
#include "store/catalog.h"

namespace moestro::engine {

// Keeps its memory between steps.
class StepLog {
  public:
    bool open() const { return open_; }
    int rows() const { return rows_; }
    std::span<const std::int32_t> tokens() const { return tokens_; }  // [rows]; -1: not known

    // tentative and tokens are empty or [rows]. Throws Error(usage) while a step is open, for fewer than one row, or
    // when they are neither.
    void begin(int rows, std::span<const std::uint8_t> tentative, std::span<const std::int32_t> tokens = {});
    // Throws Error(usage) unless a step is open and has `rows` rows left that this layer has not had.
    void check(const store::Catalog& catalog, int layer, int rows) const;
    // The layer's next rows. ids [rows, top_k].
    void add(const store::Catalog& catalog, int layer, const std::int32_t* ids, int rows, int top_k);
    // And what the router thought of their best experts: logits [rows, experts], or null, where the chosen ones and
    // their weights [rows, top_k] are all that is known.
    void add_scores(const store::Catalog& catalog, int layer, const float* logits, const std::int32_t* ids,
                    const float* weights, int rows, int top_k);
    // What the router of a later layer, `distance` layers with experts further on, made of a layer's input: logits
    // [rows, experts], and the ids [rows, top_k] that it would choose. Valid until the next step begins.
    policy::Thought add_ahead(const store::Catalog& catalog, int target, int distance, const float* logits,
                              const std::int32_t* ids, int rows, int top_k);

    // Which rows count: accepted is empty (all) or [rows]. Throws Error(usage) when no step is open, sizes differ, or a
    // row that was not tentative is rejected.
    void check_accepted(std::span<const std::uint8_t> accepted) const;
    // For accepted rows, in (row, layer, id) order: calls token(row) for a row and then, for each of its layers,
    // scored(layer, best), where scores were added, and use(ExpertId) for every expert that it used.
    template <class Token, class Scored, class Use>
    void replay(const store::Catalog& catalog, std::span<const std::uint8_t> accepted, Token&& token, Scored&& scored,
                Use&& use) const {
        for (int row = 0; row < rows_; ++row) {
            if (!accepted.empty() && !accepted[static_cast<std::size_t>(row)]) continue;
            token(row);
            for (std::size_t position = 0; position < layers_.size(); ++position) {
                const int layer = catalog.layers()[position].layer;
                if (const auto best = layers_[position].best_of(row); !best.empty()) scored(layer, best);
                for (const std::int32_t expert : layers_[position].of(row)) use(ExpertId{layer, expert});
            }
        }
    }
    // Appends the step (of which `rows` is set here), rejected rows included, to a record that takes memory for `most`
    // rows at once. Throws Error(usage), and the record stays, where some layer with experts did not have every row
    // with its scores, its top_k or their number changed, or some rows were foreseen and others not.
    void append_to(policy::RoutingRecord& record, const store::Catalog& catalog,
                   const policy::RoutingRecord::Step& step, std::span<const std::uint8_t> accepted,
                   std::size_t most) const;
    void end();

    // Of a full step, scores included; ahead: of so many later layers.
    static std::size_t bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers, std::int64_t ahead = 0);

  private:
    struct Layer {                      // by position in the catalog
        std::vector<std::int32_t> ids;  // [rows, top_k], ascending in a row
        int rows = 0, top_k = 0;
        std::vector<policy::ScoredExpert> best;  // [rows, kept], where scores were added
        int kept = 0;
        std::vector<std::vector<policy::ScoredExpert>> ahead;  // by distance from 1: [rows, kept]
        std::span<const policy::ScoredExpert> best_of(int row) const {
            const std::size_t width = static_cast<std::size_t>(kept), begin = static_cast<std::size_t>(row) * width;
            return begin + width <= best.size() ? std::span(best).subspan(begin, width)
                                                : std::span<const policy::ScoredExpert>();
        }
        std::span<const std::int32_t> of(int row) const {
            if (row >= rows) return {};
            return std::span(ids).subspan(static_cast<std::size_t>(row) * static_cast<std::size_t>(top_k),
                                          static_cast<std::size_t>(top_k));
        }
    };
    int logged(const store::Catalog& catalog, int layer) const;
    Layer& log_of(const store::Catalog& catalog, int layer);
    void score(const float* logits, int experts);
    void keep_best(std::vector<policy::ScoredExpert>& best, std::size_t kept, std::size_t first);

    bool open_ = false;
    int rows_ = 0;
    std::vector<std::uint8_t> tentative_;  // [rows] or empty
    std::vector<std::int32_t> tokens_;     // [rows]
    std::vector<Layer> layers_;
    std::vector<policy::ScoredExpert> row_;  // kept for its memory
};

}  // namespace moestro::engine
