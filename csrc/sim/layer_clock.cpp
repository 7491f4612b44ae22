#include "sim/layer_clock.h"

#include <algorithm>

#include "base/error.h"

namespace moestro::sim {

LayerClock::LayerClock(VirtualClock& clock, residency::ExpertCache& cache, VirtualSource& source, exec::LiveCosts& live,
                       const std::string& planner)
    : clock_(clock), cache_(cache), source_(source), live_(live), planner_(policy::make_planner(planner)) {}

void LayerClock::begin(const policy::LaneCosts& costs, std::span<const Needed> work) {
    costs_ = costs;
    first_ = true;
    cpu_until_ = clock_.now();
    ids_.clear();
    rows_.clear();
    if (costs.has_device) {
        plan(work);
    } else {
        for (const Needed& one : work) {
            ids_.push_back(one.id);
            rows_.push_back(one.rows);
        }
    }
    wave_.begin(cache_, ids_);
}

// Device and link do what the plan says, through the cache; the CPU computes the rest from host memory.
void LayerClock::plan(std::span<const Needed> work) {
    items_.clear();
    for (const Needed& one : work) {
        const bool here = one.found != residency::State::absent;
        items_.push_back({one.id.expert, one.rows, here ? policy::Where::device : policy::Where::host});
    }
    policy::LaneClocks clocks;
    clocks.link = static_cast<double>(source_.backlog());
    planner_->plan({items_, costs_, clocks}, plan_);
    for (const policy::Operation& one : plan_.operations) {
        const Needed& needed = work[static_cast<std::size_t>(one.item)];
        if (one.lane == policy::Lane::device) {
            ids_.push_back(needed.id);
            rows_.push_back(needed.rows);
        } else if (one.lane == policy::Lane::cpu) {
            const auto took = static_cast<Nanos>(one.end - one.begin);
            cpu_until_ += took;
            cpu_busy_ += took;
        }
    }
}

void LayerClock::finish() {
    while (wave_.left() > 0) {
        wave_.acquire();
        if (compute_some()) {
            cache_.poll();
        } else {
            const Nanos before = clock_.now();
            cache_.wait();
            stall_ += clock_.now() - before;
        }
        if (prefetcher_) prefetcher_->go_on();
    }
    wave_.end();
    if (cpu_until_ > clock_.now()) clock_.advance(cpu_until_ - clock_.now());
}

// What is ready, those that were resident first, as LayerRunner does; one by one, since time is exact here.
bool LayerClock::compute_some() {
    using Stage = residency::Wave::Stage;
    int best = -1;
    for (int item = 0; item < wave_.size() && best < 0; ++item)
        if (wave_.stage(item) == Stage::pinned && wave_.found(item) == residency::State::host) best = item;
    for (int item = 0; item < wave_.size() && best < 0; ++item)
        if (wave_.stage(item) == Stage::pinned && wave_.pin(item).state() == residency::State::host) best = item;
    if (best < 0) return false;
    const int rows = rows_[static_cast<std::size_t>(best)];
    const policy::Line& line = costs_.has_device ? costs_.device : costs_.cpu;
    const double start = first_ && !costs_.has_device ? costs_.cpu_start : 0;
    first_ = false;
    const auto took = static_cast<Nanos>(line.at(rows) + start);
    clock_.advance(took);
    (costs_.has_device ? device_busy_ : cpu_busy_) += took;
    if (!costs_.has_device) live_.computed(1, rows, took);
    wave_.done(best);
    return true;
}

}  // namespace moestro::sim
