// HybriMoE's greedy schedule (2504.05897, hybrid scheduling) with a lane for the SSD.
#pragma once

#include <utility>
#include <vector>

#include "policy/ranked_work.h"

namespace moestro::policy {

// Step by step the operation that would finish first is committed, until everything is computed. The device would take
// what it has, most rows first, and then what is sent; the CPU what is in host memory, fewest rows first, and then what
// is read or, if that would finish sooner, the device's records, fewest rows first; the link what is in host memory,
// most rows first, and then what is read; the SSD most rows first. Of equal ends: device, CPU, link, SSD.
class FirstFinish {
  public:
    // Sets sides.on_cpu. REQUIRES a device.
    void run(const RankedWork& work, Sides& sides);

  private:
    struct Step {
        double end;
        int rank;  // -1: the lane has nothing to do
    };
    Step on_device() const;
    Step on_cpu() const;
    Step on_link() const;
    Step on_ssd() const;
    double read_end(int rank) const;
    void skip(const Sides& sides);

    const RankedWork* work_ = nullptr;
    LaneClocks clocks_;
    bool cpu_started_ = false;
    // What is left, by rank: the device's records are eaten from both ends, as are those in host memory; what the SSD
    // holds is read in order and then taken in order by the CPU or the link.
    int resident_ = 0, last_resident_ = 0;  // last: what the CPU would take
    int host_ = 0, last_host_ = 0;
    int read_ = 0, taken_ = 0;                  // next to read, next of those that were
    std::vector<std::pair<int, double>> sent_;  // with when they are there
    std::size_t computed_ = 0;                  // of sent_
};

}  // namespace moestro::policy
