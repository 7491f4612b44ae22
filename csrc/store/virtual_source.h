// Records that arrive on a virtual clock: a disk that serves one record after the other, and takes as long as it is
// said to take. What it serves it may read from a real source, when its time has come.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "base/virtual_lanes.h"
#include "policy/lane_costs.h"
#include "store/expert_table.h"
#include "store/record_source.h"

namespace moestro::store {

// Destruction forgets what was not served yet, and reads nothing.
class VirtualSource final : public RecordSource {
  public:
    // lane: of `lanes`, nobody else's. takes and bytes: by the records' numbers. from: what fills the slots; none
    // leaves them as they are. first: what the first record takes more, after the lane had nothing to do.
    VirtualSource(std::shared_ptr<VirtualLanes> lanes, int lane, std::vector<Nanos> takes,
                  std::vector<std::size_t> bytes, std::unique_ptr<RecordSource> from = nullptr, Nanos first = 0);
    ~VirtualSource() override;

    void start(int number, std::byte* slot, bool urgent) override;
    void flush() override {}
    void poll(std::vector<Arrival>& out) override;
    void wait(std::vector<Arrival>& out) override;
    std::size_t in_flight() const override { return queue_.size() + (serving_ ? 1u : 0u) + arrived_.size(); }
    SourceCounters counters() const override { return from_ ? from_->counters() : counters_; }

    Nanos busy() const { return busy_; }  // serving what it was given so far

  private:
    struct Wanted {
        int number = 0;
        std::byte* slot = nullptr;
        bool urgent = false;
    };
    void serve_next(Nanos more);
    void served(const Wanted& wanted);

    const std::shared_ptr<VirtualLanes> lanes_;
    const int lane_;
    const std::vector<Nanos> takes_;
    const std::vector<std::size_t> bytes_;
    const Nanos first_;
    const std::unique_ptr<RecordSource> from_;
    std::deque<Wanted> queue_;  // in the order of being asked for
    bool serving_ = false;
    const std::shared_ptr<VirtualSource*> self_;  // null when it is gone, while the lane may still turn to it
    std::vector<Arrival> arrived_;
    Nanos busy_ = 0;
    SourceCounters counters_;
};

// By number: how long a record takes, as `cost` says of its layer; and its bytes.
std::vector<Nanos> times_by_record(const ExpertTable& table, const std::vector<policy::LaneCosts>& costs,
                                   double policy::LaneCosts::*cost);
std::vector<std::size_t> sizes_by_record(const ExpertTable& table);

}  // namespace moestro::store
