// What computing and reading an expert takes, as the run goes: costs that were measured before, corrected by moving
// averages.
#pragma once

#include <cstddef>

#include "base/clock.h"
#include "policy/lane_costs.h"

namespace moestro::exec {

// One thread at a time.
class LiveCosts {
  public:
    // measured: of an expert of `record_bytes`; lines of nothing where nothing was measured.
    explicit LiveCosts(const policy::LaneCosts& measured = {}, std::size_t record_bytes = 0);

    // So many experts were computed, on so many rows together.
    void computed(int experts, std::int64_t rows, Nanos took);
    // Reads had the disk for so long.
    void read(std::size_t bytes, Nanos took);
    // A router ran: how long after the one before it, and how much of that time the disk read what was waited for.
    void layer(Nanos took, Nanos demand);

    policy::LaneCosts of(std::size_t record_bytes) const;
    double read_ns(std::size_t bytes) const { return ns_per_byte_ * static_cast<double>(bytes); }
    double layer_ns() const { return layer_ns_; }
    // Share of the time that the disk reads what somebody waits for.
    double demand_share() const { return demand_share_; }

  private:
    policy::LaneCosts measured_;
    std::size_t record_bytes_ = 0;
    double cpu_factor_ = 1;
    double ns_per_byte_ = 1;  // until something was measured
    bool read_any_ = false;
    double layer_ns_ = 0, demand_share_ = 0;
};

}  // namespace moestro::exec
