// How the experts of one layer run through the lanes: who computes which (a planner's decision), what is read and sent
// for it, and what is done next, whenever something has ended. The same for kernels and reads that are real, for an
// emulated device, and for a simulation that computes nothing: that is decided by the workers, and by whose clock it
// is.
//
// What the device computes is launched as soon as its records are there or on the link, to follow them; the processor
// computes meanwhile, what was in memory from the start first, then what is read as it arrives.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/trace.h"
#include "device/device.h"
#include "exec/live_costs.h"
#include "exec/prefetcher.h"
#include "exec/run_counters.h"
#include "policy/planner.h"
#include "residency/tiers.h"
#include "residency/wave.h"
#include "store/expert_table.h"

namespace moestro::exec {

struct Task {  // an expert that rows of the layer chose
    ExpertId id;
    int rows = 0;
};

// One layer under way. Made once and used again; keeps its memory.
class LayerRun {
  public:
    int tasks() const { return static_cast<int>(tasks_.size()); }
    const Task& task(int number) const { return tasks_[static_cast<std::size_t>(number)]; }
    bool on_device(int number) const { return places_[static_cast<std::size_t>(number)].device; }
    // Where its record is for whoever computes it. REQUIRES that the worker was just asked to.
    const std::byte* record(int number) const;

  private:
    friend class LayerSchedule;
    struct TaskPlace {
        bool device = false;
        int item = 0;  // of that side's wave
    };
    struct Launch {
        std::vector<int> items;  // of the device's wave
        device::Event over;
        Nanos began = 0;
    };
    residency::Wave& wave(bool device) { return device ? device_ : host_; }
    int left() const { return host_.left() + device_.left(); }

    std::vector<Task> tasks_;
    std::vector<TaskPlace> places_;               // by task
    residency::Wave host_, device_;               // what each side computes
    std::vector<int> host_tasks_, device_tasks_;  // by item of the wave
    std::vector<bool> launched_;                  // by item of the device's wave
    std::vector<Launch> launches_;                // not over
    policy::LayerPlan plan_;                      // with a device
    policy::LaneCosts costs_;
    Nanos began_ = 0;
    bool computed_any_ = false;  // on the processor
};

// What computes. Tasks are numbers of the run's.
class Workers {
  public:
    virtual ~Workers() = default;
    // They are computed when it returns.
    virtual void on_cpu(const LayerRun& run, std::span<const int> tasks) = 0;
    // Not before `after`. takes: nanoseconds, where time is virtual.
    virtual device::Event on_device(const LayerRun& run, std::span<const int> tasks, const device::Event& after,
                                    Nanos takes) = 0;
};

// One thread at a time. Borrows what it is made of.
class LayerSchedule {
  public:
    // Experts computed between two looks at the other lanes.
    struct Piece {
        std::int64_t rows = 256;
        std::size_t bytes = std::size_t{64} << 20;
        std::size_t experts = SIZE_MAX;
    };

    // live: learns what computing takes; may be null without a device. costs: by layer with experts, instead of `live`
    // where they are known, as on a virtual clock; else empty.
    LayerSchedule(const residency::Tiers& tiers, const store::ExpertTable& table, const Clock& clock, LiveCosts* live,
                  std::vector<policy::LaneCosts> costs = {});

    // Who decides from now on who computes; without a device nobody is asked. Throws Error(usage) for an unknown name.
    void set_planner(std::string_view name);
    void set_prefetcher(Prefetcher* prefetcher) { prefetcher_ = prefetcher; }
    void set_trace(TraceRing* trace) { trace_ = trace; }

    // Plans, pins what is there and starts what must be read or sent, as far as there is room. tasks: of one layer, its
    // experts ascending.
    void begin(LayerRun& run, std::span<const Task> tasks);
    // Until all is computed. make_room: gives up pins of others, and says whether there were any. Throws the first
    // failed read or copy.
    void finish(LayerRun& run, Workers& workers, const std::function<bool()>& make_room);
    // Drops every pin, when what was launched is over. May be called any time.
    void end(LayerRun& run) noexcept;
    // Takes back pins of what was begun and is not being finished: they are taken again then.
    bool disarm(LayerRun& run);

    const RunCounters& counters() const { return counters_; }
    void add_compute(Nanos took) { counters_.compute_ns += took; }

  private:
    void plan(LayerRun& run);
    void start_as_planned(LayerRun& run);
    void count(const LayerRun& run);
    void launch(LayerRun& run, Workers& workers);
    void launch_items(LayerRun& run, Workers& workers, const device::Event& after);
    void retire(LayerRun& run);
    bool compute_some(LayerRun& run, Workers& workers);
    void collect(const LayerRun& run, bool hits);
    void fill_device(const LayerRun& run);
    Nanos ready(const LayerRun& run, int item) const;
    void stall(const LayerRun& run, const std::function<bool()>& make_room);
    policy::LaneCosts costs(int layer) const;

    const residency::Tiers tiers_;
    const store::ExpertTable& table_;
    const Clock& clock_;
    LiveCosts* const live_;
    const std::vector<policy::LaneCosts> known_;
    std::unique_ptr<policy::Planner> planner_;
    Prefetcher* prefetcher_ = nullptr;
    TraceRing* trace_ = nullptr;
    Piece piece_;
    RunCounters counters_;
    Nanos device_since_ = 0;  // meaningful while something is launched
    LaneTimes device_lane_;

    // Scratch:
    std::vector<policy::WorkItem> work_;
    std::vector<ExpertId> ids_, evicted_;
    std::vector<int> items_, numbers_;  // of a piece or a launch: in the wave, as tasks
    std::int64_t piece_rows_ = 0;
    std::size_t piece_bytes_ = 0;
    Nanos piece_ready_ = 0;  // when the last of them could be computed
};

}  // namespace moestro::exec
