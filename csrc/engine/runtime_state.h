// What a Runtime is made of. Private to csrc/engine.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/virtual_lanes.h"
#include "device/device.h"
#include "engine/runtime.h"
#include "engine/step_log.h"
#include "exec/layer_runner.h"
#include "exec/live_costs.h"
#include "exec/prefetcher.h"
#include "exec/schedule_trial.h"
#include "memory/staging.h"
#include "residency/expert_cache.h"
#include "residency/layer_stream.h"

namespace moestro::engine {

// An expert that a caller holds.
struct HeldExpert {
    HeldExpert() = default;
    ~HeldExpert();
    HeldExpert(const HeldExpert&) = delete;
    HeldExpert& operator=(const HeldExpert&) = delete;

    int count = 0;
    residency::Pin pin;
    std::shared_ptr<std::array<kernels::Matrix, 3>> matrices;
};

struct Runtime::State final : memory::Lender {
    State(const RuntimeOptions& options, const World& world);
    ~State() override;

    // KV blocks and expert slots share what the budget has left.
    bool lend(std::size_t bytes) override;
    bool give_up(std::size_t bytes);  // the same, for one who has entered
    void returned() override;
    std::size_t can_lend() const override;
    void grow();

    // Waits for loads nobody waits for: the reader is then free for others.
    void settle();
    void publish();
    policy::ExpertSet expert_set() const;
    std::unique_ptr<store::RecordSource> disk();         // where experts' records come from
    std::vector<policy::LaneCosts> known_costs() const;  // by layer with experts; empty where they are measured
    void add_runner();                                   // and the device's cache, where there is device memory
    void open_device();
    residency::DeviceTier add_device();
    exec::DeviceSide device_side();
    MatrixHandle keep(MatrixHandle loaded);  // where the trunk computes
    void add_prefetcher();
    void drop_experts();
    void resize_host(std::size_t bytes);
    void resize_device(std::size_t bytes);
    policy::RoutingRecord::Step measured() const;  // what the step took until now
    ExpertId expert(int layer, int expert) const;  // throws Error(usage) for one that does not exist
    exec::LayerRunner& experts() const;            // throws Error(usage) before set_experts
    store::TrunkUnits& units_to_add();             // throws Error(usage) after set_stream
    residency::LayerStream& streamed() const;      // throws Error(usage) before set_stream

    std::unique_ptr<io::Reader> make_reader(std::span<std::byte> registered) const;

    // Constant after construction:
    const RuntimeOptions options;
    const World world;
    const std::shared_ptr<VirtualLanes> lanes;  // none where time is real
    const std::shared_ptr<const Clock> clock;
    const std::shared_ptr<kernels::Compute> compute;  // the processor
    const std::shared_ptr<memory::Ledger> ledger;

    const std::shared_ptr<TraceRing> trace;

    std::atomic<bool> entered = false;  // whoever set it may use all but `published`
    memory::Staging staging;
    std::map<std::string, int> file_numbers;
    std::shared_ptr<const store::Catalog> catalog;
    std::unique_ptr<residency::ExpertCache> cache;
    std::shared_ptr<device::Device> device;  // these three: none without device memory
    std::shared_ptr<memory::Ledger> device_ledger;
    std::shared_ptr<kernels::Accelerator> accelerator;  // none where the trunk computes on the processor
    std::shared_ptr<kernels::Compute> trunk_compute;
    std::unique_ptr<residency::ExpertCache> device_cache;  // after the host's, from which it reads
    std::vector<residency::ExpertCache*> caches;           // both
    policy::LaneCosts before;                              // what lanes take, as measured or said before the first step
    exec::LiveCosts costs;
    exec::LiveCosts prefetch_costs;                // of the tier that is read ahead into
    std::unique_ptr<exec::Prefetcher> prefetcher;  // none with predictor "none"
    std::optional<exec::ScheduleTrial> trial;      // schedule "auto"
    std::unique_ptr<exec::LayerRunner> runner;
    std::map<ExpertId, HeldExpert> held;       // after the cache, so gone before it
    std::shared_ptr<store::TrunkUnits> units;  // none while nothing is streamed
    std::unique_ptr<residency::LayerStream> stream;
    // Lends the device's expert slots to KV blocks that are there.
    class DeviceLender final : public memory::Lender {
      public:
        explicit DeviceLender(State& state) : state_(state) {}
        bool lend(std::size_t bytes) override;
        bool give_up(std::size_t bytes);  // the same, for one who has entered
        void returned() override;
        std::size_t can_lend() const override;

      private:
        State& state_;
    } device_lender{*this};
    std::unique_ptr<memory::KvPool> kv;
    StepLog log;
    Recorder recorder;
    bool routed_whole = false;  // the last layer had all of the step's rows at once: what predictors can follow
    std::uint64_t steps = 0, rows = 0;
    Nanos step_began = 0;
    std::size_t step_limit = 0;  // these of the cache and its runner, when it began
    exec::RunCounters step_run;
    residency::CacheCounters step_cached;
    store::SourceCounters step_source;

    mutable std::mutex looking;  // guards `published`, and `files` for readers outside
    struct {
        Counters counters;
        Residency residency;
        std::vector<exec::PrefetchCounters> prefetch;
        std::string schedule;
        std::vector<std::string> refused;
    } published;
    store::Files files;

    // Last, so gone first: it waits for its reads into the memory above.
    std::unique_ptr<io::Reader> reader;
    store::TrunkLoader trunk;
};

}  // namespace moestro::engine
