// Runs the experts of one layer over a batch of rows, on the processor and, where there is one, on a device, as a
// LayerSchedule says. Outputs are kept apart and combined in router order, so nothing about residency shows in the
// result.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/memory.h"
#include "exec/device_rows.h"
#include "exec/grouping.h"
#include "exec/layer_schedule.h"
#include "kernels/ops.h"
#include "residency/tiers.h"
#include "store/catalog.h"

namespace moestro::exec {

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
    const float* x_ = nullptr;        // [rows, hidden], the caller's
    const float* x_there_ = nullptr;  // the same in device memory, where outputs are wanted then; or null
    int rows_ = 0, top_k_ = 0;
    std::vector<float> weights_;  // [rows, top_k]
    Grouping groups_;
    LayerRun run_;  // a task per group
};

// What a runner has of a device.
struct DeviceSide {
    std::unique_ptr<DeviceRows> rows;
    // Biases of experts in the device's memory, by position of their layer: of gate, up and down. Empty where it reads
    // the host's.
    std::vector<std::array<device::Buffer, 3>> biases;
    // Combines outputs in the device's memory, for rows that are there. May be null.
    std::shared_ptr<kernels::Compute> compute;
};

// One thread at a time. Working memory grows to the largest call and is kept; scratch_bytes says how much that is.
class LayerRunner {
  public:
    // Borrows catalog, tiers' caches, compute and clock; they must outlive the runner. costs: learn what computing
    // takes; may be null. known: costs of lanes by layer with experts, instead of learnt ones; else empty.
    LayerRunner(const store::Catalog& catalog, const residency::Tiers& tiers, kernels::Compute& compute,
                const Clock& clock, LiveCosts* costs = nullptr, DeviceSide device = {},
                std::vector<policy::LaneCosts> known = {});
    ~LayerRunner();

    // Decides who computes what, pins resident records and starts loads of the others, as many as fit. ids and weights
    // [rows, top_k] are copied, x must stay valid until wait(). x_there: the same rows in the device's memory, where y
    // is then too; or null. Throws Error(usage) for a layer or an id that does not exist.
    std::shared_ptr<Submission> submit(int layer, const float* x, int rows, const std::int32_t* ids,
                                       const float* weights, int top_k, const float* x_there = nullptr);
    // y [rows, hidden]. Throws the first failed load or Error(numeric). Either way the submission is over and pins
    // nothing. Throws Error(usage) for one that is over already.
    void wait(Submission& submission, float* y);

    // Ends every open submission. Loads that were started go on and can be joined.
    void abandon_all();
    // Ends those whose holders gave them up.
    void sweep();
    int open() const { return static_cast<int>(open_.size()); }

    // Of the device's memory, for steps of up to `rows` rows that are there.
    void reserve(int rows, int top_k, int hidden) {
        device_.rows->reserve(static_cast<std::size_t>(rows) * static_cast<std::size_t>(top_k), hidden);
    }

    LayerSchedule& schedule() { return schedule_; }
    RunCounters counters() const { return schedule_.counters(); }
    std::string refusal() const { return device_.rows ? device_.rows->refusal() : std::string(); }

    // What the runner holds after calls of up to so many rows; integer: a format that quantises activations.
    static std::size_t scratch_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t hidden,
                                     std::int64_t intermediate, bool integer, kernels::Math math);

  private:
    class Hands;
    std::shared_ptr<Submission> fresh();
    void close(Submission& submission);
    void prepare(const Submission& submission);
    void prepare_rows(const Submission& submission);
    bool disarm_others(const Submission& submission);
    void combine(const Submission& submission, float* y);
    void take_from_device(const Submission& submission);
    float* outputs(const Submission& submission) const;
    kernels::ExpertJob job(const Submission& submission, int group, bool on_device) const;

    const store::Catalog& catalog_;
    kernels::Compute& compute_;
    const Clock& clock_;
    LayerSchedule schedule_;
    const DeviceSide device_;  // empty without one

    std::vector<std::shared_ptr<Submission>> open_;   // oldest first
    std::vector<std::shared_ptr<Submission>> spare_;  // over, kept for their memory

    // Working memory of wait():
    kernels::Activations activations_;
    kernels::MlpScratch mlp_;
    PageBuffer outputs_;                  // [pairs, hidden] float32, by place
    std::vector<const float*> pointers_;  // [rows, top_k]
    std::vector<kernels::ExpertJob> jobs_;
    std::vector<Task> tasks_;
    std::vector<bool> on_device_;  // by place
};

}  // namespace moestro::exec
