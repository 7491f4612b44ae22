// How often experts were used in a routing table: by every token, after an expert of the layer before (ExFlow,
// 2401.08383), and by each token of the vocabulary (Sem-MoE, 2503.04398).
#pragma once

#include <span>
#include <unordered_map>
#include <vector>

#include "policy/predictor.h"

namespace moestro::policy {

class TransitionTables {
  public:
    // What is seldom seen says little: every share below is counted as if so many more had been seen that use experts
    // as all tokens do. Chosen, with what `transition` makes of the shares, on the demo model's traces.
    static constexpr float kPrior = 2;

    // REQUIRES a table that require_table() takes
    TransitionTables(const ExpertSet& experts, const RoutingTable& table);

    bool knows(std::int32_t token) const { return slots_.contains(token); }

    // Layers by their position in the set; shares [its experts], of tokens that use each of them: of all tokens,
    std::span<const float> of_all(std::size_t position) const { return layers_[position].popularity; }
    // of those that are `token` (one that is not known: as of all),
    void of_token(std::size_t position, std::int32_t token, std::span<float> shares) const;
    // and of those that used one of `chosen` in the layer before, on average over these. REQUIRES position > 0
    void after(std::size_t position, std::span<const std::int32_t> chosen, std::span<float> shares) const;

  private:
    struct Use {
        std::int32_t expert = 0, count = 0;
    };
    struct Layer {
        int experts = 0;
        std::vector<float> popularity;
        std::vector<float> after;         // [experts of the layer before, experts]; empty in the first layer
        std::vector<std::size_t> begins;  // [known tokens + 1] of uses
        std::vector<Use> uses;
    };

    void count_after(const RoutingTable& table, std::size_t position);
    void count_by_token(const RoutingTable& table, std::size_t position, std::span<const std::size_t> by_slot);

    std::vector<Layer> layers_;
    std::unordered_map<std::int32_t, std::size_t> slots_;  // of known tokens, in the order in which they came
    std::vector<std::size_t> seen_;                        // how often, by slot
};

}  // namespace moestro::policy
