// Which experts later layers will use. A predictor is told what routers chose and thought, and says what it expects; it
// moves nothing, so the same object serves a run and a simulation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/types.h"
#include "policy/eviction.h"
#include "policy/lane_costs.h"

namespace moestro::policy {

// An expert that a later layer of this step may use. Nobody is bound by it.
struct Hint {
    ExpertId id;
    float probability = 0;  // that some row of the step uses it
    double gain = 0;        // nanoseconds saved if it is in memory by then; 0: what a miss costs
};

// What a router chose for the rows of a step: [rows, top_k].
struct Chosen {
    std::span<const std::int32_t> ids;
    int rows = 0, top_k = 0;
    std::span<const std::int32_t> of(int row) const {
        return ids.subspan(static_cast<std::size_t>(row * top_k), static_cast<std::size_t>(top_k));
    }
};

// What a router thought of the best experts of each row, best first: [rows, kept]; the first top_k of a row are those
// it would choose, the others nearly were.
struct Thought {
    std::span<const ScoredExpert> best;
    int rows = 0, kept = 0, top_k = 0;
    std::span<const ScoredExpert> of(int row) const {
        return best.subspan(static_cast<std::size_t>(row * kept), static_cast<std::size_t>(kept));
    }
};

// What is known about the machine when hints are asked for.
struct Outlook {
    using Resident = std::function<bool(ExpertId)>;
    Resident resident;
    LaneCosts costs;
    double record_ns = 0, layer_ns = 0;  // what moving a record takes, and a layer; 0 until they were measured
};

// Earlier tokens of the same model, in the order in which they were read: what some predictors learn from before they
// start.
struct RoutingTable {
    std::vector<std::int32_t> tokens;  // [tokens]; -1: not known
    std::vector<std::int32_t> chosen;  // [layers with experts, tokens, top_k]
    int top_k = 0;
    int count() const { return static_cast<int>(tokens.size()); }
};

// "path": what `moestro trace train-path` learnt; policy/path_model.h says what it means. Matrices are row-major:
// embedding [vocabulary, width], hidden [width, 2 width], hidden_bias [width], and by expert, through all layers,
// output [experts, width], output_bias [experts], correction [experts, width].
struct PathWeights {
    int vocabulary = 0, width = 0;
    std::vector<float> embedding, hidden, hidden_bias, output, output_bias, correction;
};

struct PredictorSettings {
    ExpertSet experts = {};
    std::vector<int> top_k = {};  // by position of the layer
    RoutingTable trace = {};      // "transition", "activation"
    PathWeights path = {};        // "path"
};

// One thread at a time. Layers are those of the model; all calls of a step come in the order of its layers.
class Predictor {
  public:
    virtual ~Predictor() = default;
    virtual std::string_view name() const = 0;

    // Of how many next layers with experts it wants to know what their routers make of a layer's router input.
    virtual int lookahead() const { return 0; }
    // A step begins; the ids of its rows, -1 where they are not known.
    virtual void on_step(std::span<const std::int32_t> /*tokens*/) {}
    // What the router of `layer` chose for these rows.
    virtual void on_routing(int /*layer*/, const Chosen& /*chosen*/) {}
    // What the router of the later layer `target` makes of the input of the router of `layer`.
    virtual void on_ahead(int /*layer*/, int /*target*/, const Thought& /*thought*/) {}
    // Appends what it expects of layers after `layer` (-1: of all layers, before the first), each expert at most once,
    // in any order. An expert it says nothing of is one it does not expect.
    virtual void predict(int layer, const Outlook& outlook, std::vector<Hint>& hints) = 0;
    // An accepted token, whose id is -1 where it is not known, and then what it used, in (layer, id) order. Told at the
    // end of a step.
    virtual void on_token(std::int32_t /*token*/) {}
    virtual void on_use(ExpertId /*id*/) {}
};

// Throws Error(usage) naming the known predictors, or saying what the predictor lacks.
std::unique_ptr<Predictor> make_predictor(std::string_view name, const PredictorSettings& settings);
// Throws Error(usage) naming the known predictors, where it is none of them.
void require_predictor(std::string_view name);
const std::vector<std::string_view>& predictor_names();

}  // namespace moestro::policy
