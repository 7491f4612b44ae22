// Reads experts before they are asked for. A predictor says what later layers will use; what is worth its read is read
// while the disk has nothing else to do, and everything is counted.
//
// A hint is admitted when P(use) x what a miss costs > bytes / free bandwidth, where the free bandwidth is the disk's,
// divided by the share of the time in which it reads what somebody waits for: so a disk at rest takes nearly everything
// and a busy one only what is nearly certain. P(use) is what the predictor claims, corrected by how often such claims
// came true. No more is queued than the disk can read until the layer's turn. Nothing starts while a read is under way
// that somebody waits for; hints that a router contradicts are dropped; what is pinned, or expected itself, is never
// given up for a hint.
//
// Where a predictor loses on a layer it is not listened to for a while.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "exec/live_costs.h"
#include "policy/predictor.h"
#include "policy/recency.h"
#include "residency/expert_cache.h"
#include "store/expert_table.h"

namespace moestro::exec {

// Of one layer, since the beginning.
struct PrefetchCounters {
    std::uint64_t steps = 0;     // in which the layer's router ran
    std::uint64_t needed = 0;    // distinct experts that it chose
    std::uint64_t hinted = 0;    // distinct experts that were expected then
    std::uint64_t foreseen = 0;  // both: recall = foreseen / needed, precision = foreseen / hinted
    // Bytes of records that were read ahead for this layer: complete when it asked, still on their way, not asked for.
    std::uint64_t used_bytes = 0, late_bytes = 0, wasted_bytes = 0;
    std::uint64_t started = 0;    // reads
    std::uint64_t cancelled = 0;  // admitted, and dropped before their read began
    std::uint64_t regretted = 0;  // experts that were missing because they had made room for a hint
    bool off = false;             // now
    std::uint64_t times_off = 0;
};

// One thread at a time. Borrows table, cache, costs and clock.
class Prefetcher {
  public:
    Prefetcher(std::unique_ptr<policy::Predictor> predictor, const store::ExpertTable& table,
               residency::ExpertCache& cache, LiveCosts& costs, const Clock& clock);

    std::string_view name() const { return predictor_->name(); }
    // Of how many next layers it wants to know what their routers make of a layer's input.
    int lookahead() const { return predictor_->lookahead(); }

    // In this order: begin_step, then for every layer routed (before its records are asked for), ahead for each of its
    // next layers and advise; accepted tokens and their uses; end_step. abort_step instead of the last ones. Of a layer
    // whose rows come in several calls of routed the predictor hears nothing. routed throws Error(usage) for an expert
    // that does not exist.
    void begin_step(std::span<const std::int32_t> tokens);
    void routed(int layer, const policy::Chosen& chosen);
    void ahead(int layer, int target, const policy::Thought& thought) { predictor_->on_ahead(layer, target, thought); }
    void advise(int layer);
    void token(std::int32_t id) { predictor_->on_token(id); }
    void used(ExpertId id) { predictor_->on_use(id); }
    void end_step();
    void abort_step() { forget(); }

    // Starts reads that were admitted, as long as nobody waits for another one. To be called when the disk may have
    // time.
    void go_on();

    std::span<const PrefetchCounters> counters() const { return counters_; }  // by position of the layer

  private:
    static constexpr int kBuckets = 10;  // of claimed probabilities
    struct Claims {                      // of one layer: how often they came true
        std::array<double, kBuckets> made = {}, true_ = {};
    };
    struct Window {  // of one layer: what decides whether it is listened to
        int tokens = 0, judged = 0, right = 0, regretted = 0;
    };
    struct Admitted {
        ExpertId id;
        double value = 0;  // nanoseconds
        std::size_t bytes = 0;
    };

    std::size_t bytes(std::size_t position) const { return table_.sizes()[position].record_bytes; }
    double price(std::size_t position) const;
    double busy_share() const;  // of the time, in which the disk counts as taken
    double probability(std::size_t position, float claimed) const;
    void expect(std::span<const policy::Hint> hints);
    void admit(int from, std::span<const policy::Hint> hints);
    void judge(std::size_t position);
    void settle(std::size_t position);
    void decide(std::size_t position, int rows);
    void drop(std::size_t position);
    void forget();
    void measure();

    const std::unique_ptr<policy::Predictor> predictor_;
    const store::ExpertTable& table_;
    residency::ExpertCache& cache_;
    LiveCosts& costs_;
    const Clock& clock_;
    const policy::Outlook::Resident resident_;

    std::vector<PrefetchCounters> counters_;  // these four by position of the layer
    std::vector<Claims> claims_;
    std::vector<Window> windows_;
    std::vector<int> off_for_;  // tokens until it is listened to again; 0: it is

    // Of the step under way:
    int rows_ = 0;
    std::vector<std::vector<float>> expected_;  // by position and expert: the latest claim, 0 for none
    std::vector<bool> chosen_;                  // by expert, of the layer that routes
    std::vector<Admitted> queue_;               // least valuable first
    std::vector<policy::Hint> hints_;
    std::vector<ExpertId> evicted_;
    std::unordered_set<ExpertId, policy::HashExpert> started_;  // reads for this step that nobody asked for yet

    std::unordered_map<ExpertId, std::size_t, policy::HashExpert> gave_way_;  // to a hint for a layer at this position
    Nanos last_routed_ = 0;
    residency::CacheCounters last_;
};

}  // namespace moestro::exec
