// Runs the experts of one layer over a batch of rows: resident ones while the others load, loaded ones as they come, in
// waves that never pin more than fits. Outputs are kept apart and combined in router order, so nothing about residency
// shows in the result.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/clock.h"
#include "base/memory.h"
#include "base/trace.h"
#include "exec/grouping.h"
#include "exec/live_costs.h"
#include "exec/prefetcher.h"
#include "kernels/ops.h"
#include "residency/expert_cache.h"
#include "residency/wave.h"
#include "store/catalog.h"

namespace moestro::exec {

struct RunCounters {
    // Per distinct expert of a submit, by where its record was then: complete in memory, absent, being loaded.
    std::uint64_t hits = 0, misses = 0, joined = 0;
    Nanos compute_ns = 0;  // in kernels
    Nanos stall_ns = 0;    // waiting for reads with nothing to compute
    Nanos queued_ns = 0;   // of all experts: in memory, waiting for the threads
};

// One submit, until it was waited for. Made and run by a LayerRunner; whoever holds it can only give it up.
class Submission {
  public:
    // Nobody will wait. Any thread, any time, also after the runner is gone; the runner drops the pins when it is next
    // used.
    void abandon() noexcept { abandoned_.store(true, std::memory_order_release); }

  private:
    friend class LayerRunner;

    std::atomic<bool> abandoned_ = false;
    bool open_ = false;
    const store::ExpertLayer* layer_ = nullptr;
    const float* x_ = nullptr;  // [rows, hidden], the caller's
    int rows_ = 0, top_k_ = 0;
    std::vector<float> weights_;  // [rows, top_k]
    Grouping groups_;
    residency::Wave wave_;  // an item per group
    Nanos submitted_ = 0;
};

// One thread at a time. Working memory grows to the largest call and is kept; scratch_bytes says how much that is.
class LayerRunner {
  public:
    // Borrows all; they must outlive the runner. costs: learn what computing takes; may be null.
    LayerRunner(const store::Catalog& catalog, residency::ExpertCache& cache, kernels::Compute& compute,
                const Clock& clock, LiveCosts* costs = nullptr);
    ~LayerRunner();

    // Pins resident records and starts loads of the others, as many as fit. ids and weights [rows, top_k] are copied, x
    // must stay valid until wait(). Throws Error(usage) for a layer or an id that does not exist.
    std::shared_ptr<Submission> submit(int layer, const float* x, int rows, const std::int32_t* ids,
                                       const float* weights, int top_k);
    // y [rows, hidden]. Throws the first failed load or Error(numeric). Either way the submission is over and pins
    // nothing. Throws Error(usage) for one that is over already.
    void wait(Submission& submission, float* y);

    // Ends every open submission. Loads that were started go on and can be joined.
    void abandon_all();
    // Ends those whose holders gave them up.
    void sweep();
    int open() const { return static_cast<int>(open_.size()); }

    RunCounters counters() const { return counters_; }
    // Is asked to go on whenever the disk may have time.
    void set_prefetcher(Prefetcher* prefetcher) { prefetcher_ = prefetcher; }
    // What is computed, and what is waited for, is recorded there from now on.
    void set_trace(TraceRing* trace) { trace_ = trace; }

    // What the runner holds after calls of up to so many rows; integer: a format that quantises activations.
    static std::size_t scratch_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t hidden,
                                     std::int64_t intermediate, bool integer, kernels::Math math);

  private:
    std::shared_ptr<Submission> fresh();
    void close(Submission& submission);
    void count(const residency::Wave& wave);
    void run(Submission& submission);
    void prepare(const Submission& submission);
    bool compute_some(Submission& submission);
    void collect(Submission& submission, bool hits);
    static Nanos ready(const Submission& submission, int group);
    void stall(Submission& submission);
    bool disarm_others(const Submission& submission);
    void combine(const Submission& submission, float* y);
    float* output(const Submission& submission, std::int32_t place);

    const store::Catalog& catalog_;
    residency::ExpertCache& cache_;
    kernels::Compute& compute_;
    const Clock& clock_;

    std::vector<std::shared_ptr<Submission>> open_;   // oldest first
    std::vector<std::shared_ptr<Submission>> spare_;  // over, kept for their memory
    RunCounters counters_;
    LiveCosts* const costs_;
    Prefetcher* prefetcher_ = nullptr;
    TraceRing* trace_ = nullptr;

    // Working memory of wait():
    kernels::Activations activations_;
    kernels::MlpScratch mlp_;
    PageBuffer outputs_;                  // [pairs, hidden] float32, by place
    std::vector<const float*> pointers_;  // [rows, top_k]
    std::vector<kernels::ExpertJob> jobs_;
    std::vector<int> piece_;     // groups of jobs_
    std::vector<ExpertId> ids_;  // by group
    std::int64_t piece_pairs_ = 0;
    std::size_t piece_bytes_ = 0;
    Nanos piece_ready_ = 0;  // when the last of them could be computed
};

}  // namespace moestro::exec
