// Runs what a model asked for once more, without the model: the cache, the policies and the predictors of production on
// a virtual clock, on a machine that is a few numbers.
//
// Without a device, experts are computed by the CPU from a cache in host memory, behind an SSD. With one, they are
// computed by the device from a cache in its memory, behind a link from host memory, or by the CPU from there: a
// planner decides, layer by layer. What runs is exec/layer_schedule.h, as in a run, with workers that compute nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "exec/prefetcher.h"
#include "policy/lane_costs.h"
#include "policy/predictor.h"
#include "policy/routing_record.h"
#include "residency/tiers.h"
#include "store/expert_table.h"

namespace moestro::sim {

struct ReplayOptions {
    std::vector<std::size_t> record_bytes;  // by layer with experts; multiples of 4096
    std::vector<policy::LaneCosts> costs;   // the same
    policy::Line layer;                     // of a layer beside its experts, by rows: attention, router, shared expert
    policy::Line step;                      // of a step beside its layers: embedding, head, sampling
    // Of the device's cache where there is one, else of the host's. None: as the record says, step by step.
    std::optional<std::size_t> cache_bytes;
    std::optional<int> max_slots;
    // With a device: of the host's cache. None: the host has all records from the start.
    std::optional<std::size_t> host_bytes = {};
    std::optional<int> host_slots = {};
    residency::Copies copies = residency::Copies::inclusive;
    std::string policy = "lru";
    std::vector<double> frequencies = {};  // "static"
    std::string prefetch = "none";
    policy::PredictorSettings predictor = {};  // but for the experts
    std::string planner = "hybrid";            // with a device
    int first_step = 0;                        // what is counted begins there
};

struct ReplayResult {
    struct Layer {
        std::uint64_t hits = 0, misses = 0, joined = 0;
    };
    std::vector<Layer> layers;                          // per distinct expert of a step and layer, by where it was then
    std::uint64_t evictions = 0, loads = 0, bytes = 0;  // of that cache
    std::uint64_t read_bytes = 0;                       // from the SSD
    int steps = 0, rows = 0;
    Nanos time = 0, cpu_busy = 0, device_busy = 0, link_busy = 0, stall = 0;
    std::vector<exec::PrefetchCounters> prefetch;  // by layer with experts; empty for "none"
};

// Throws Error(usage) for options that contradict themselves or the record, Error(budget) where two records do not fit.
ReplayResult replay(const policy::RoutingRecord& record, const ReplayOptions& options);

// The misses that no policy could avoid with so many slots, each of a list (policy/belady.h), counted from a step on.
std::vector<std::int64_t> belady_misses(const policy::RoutingRecord& record, const std::vector<int>& slots,
                                        int first_step = 0);

}  // namespace moestro::sim
