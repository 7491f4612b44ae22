// What the experts of one layer take, on a virtual clock: what production does with real kernels and reads.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/types.h"
#include "exec/live_costs.h"
#include "exec/prefetcher.h"
#include "policy/lane_costs.h"
#include "policy/layer_plan.h"
#include "policy/planner.h"
#include "residency/expert_cache.h"
#include "residency/wave.h"
#include "sim/virtual_source.h"

namespace moestro::sim {

struct Needed {  // an expert that rows of the layer chose
    ExpertId id;
    int rows = 0;
    residency::State found = residency::State::absent;  // before the layer began
};

// One thread at a time. Borrows all it is made of.
class LayerClock {
  public:
    LayerClock(VirtualClock& clock, residency::ExpertCache& cache, VirtualSource& source, exec::LiveCosts& live,
               const std::string& planner);
    void set_prefetcher(exec::Prefetcher* prefetcher) { prefetcher_ = prefetcher; }

    // Pins and starts loads, as LayerRunner::submit; then computes, as LayerRunner::wait. work: ascending, valid until
    // finish().
    void begin(const policy::LaneCosts& costs, std::span<const Needed> work);
    void finish();

    Nanos cpu_busy() const { return cpu_busy_; }
    Nanos device_busy() const { return device_busy_; }
    Nanos stall() const { return stall_; }

  private:
    void plan(std::span<const Needed> work);
    bool compute_some();

    VirtualClock& clock_;
    residency::ExpertCache& cache_;
    VirtualSource& source_;
    exec::LiveCosts& live_;
    const std::unique_ptr<policy::Planner> planner_;
    exec::Prefetcher* prefetcher_ = nullptr;

    // Of the layer under way: what is computed from the cache, and how long the CPU computes beside that.
    policy::LaneCosts costs_;
    residency::Wave wave_;
    std::vector<ExpertId> ids_;
    std::vector<int> rows_;  // by item of the wave
    bool first_ = true;
    Nanos cpu_until_ = 0;
    std::vector<policy::WorkItem> items_;
    policy::LayerPlan plan_;

    Nanos cpu_busy_ = 0, device_busy_ = 0, stall_ = 0;
};

}  // namespace moestro::sim
