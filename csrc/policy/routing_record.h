// What routers chose and thought, token by token, and how much memory a cache of experts had meanwhile: all that
// decides what the cache did, so that it can be done again without the model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/clock.h"
#include "policy/eviction.h"

namespace moestro::policy {

struct RoutingRecord {
    struct Layer {  // with experts
        int layer = 0, experts = 0;
        int top_k = 0, kept = 0;                            // kept: of the best that a router thought of
        std::vector<std::int32_t> chosen;                   // [rows, top_k], ascending in a row
        std::vector<ScoredExpert> best;                     // [rows, kept], best first
        std::vector<std::vector<ScoredExpert>> ahead = {};  // by distance, from 1: [rows, kept], what this layer's
                                                            // router made of the input of the one so many before it
    };
    struct Step {
        int rows = 0;
        std::size_t cache_bytes = 0;  // the cache's limit
        // What it took, for fitting costs: when it began and ended, and of that time computing experts, waiting for
        // them, and verifying and interleaving what arrived; what the disk read for experts meanwhile, and for how
        // long.
        Nanos began = 0, ended = 0, compute = 0, stall = 0, arrival = 0, read = 0;
        std::uint64_t read_bytes = 0;
    };

    std::vector<Layer> layers;  // ascending
    std::vector<Step> steps;
    std::vector<std::int32_t> tokens;    // [rows] of all steps; -1: not known
    std::vector<std::uint8_t> accepted;  // [rows]

    int rows() const { return static_cast<int>(tokens.size()); }
};

}  // namespace moestro::policy
