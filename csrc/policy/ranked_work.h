// A layer's work as a search over sides sees it: who computes what, and which record the link would rather take, decide
// when the layer is done, because the best orders of the other lanes follow.
#pragma once

#include <algorithm>
#include <vector>

#include "policy/layer_plan.h"
#include "policy/timeline.h"

namespace moestro::policy {

// A choice, by rank (see RankedWork).
struct Sides {
    std::vector<char> on_cpu;
    std::vector<int> link;  // all that is not on the device, in the order in which the link takes what is sent
};

// What a choice gives the lanes to do.
struct Load {
    double cpu = 0, device = 0;  // nanoseconds of computing
    int on_cpu = 0, on_device = 0, sent = 0;
};

struct Finish {
    Load load;
    double cpu = 0, device = 0;  // when each side is done; 0 where it has nothing to do
    double makespan() const { return std::max(cpu, device); }
};

// Items by rank: those on the device, then those in host memory, then those on the SSD; of each most rows first, then
// as listed. One thread at a time; keeps scratch between calls.
class RankedWork {
  public:
    // `work` need not live on.
    void set(const LayerWork& work);

    int count() const { return static_cast<int>(items_.size()); }
    int hosts() const { return hosts_; }  // rank of the first in host memory
    int reads() const { return reads_; }  // rank of the first on the SSD
    int item(int rank) const { return items_[at(rank)]; }
    double cpu(int rank) const { return cpu_[at(rank)]; }
    double device(int rank) const { return device_[at(rank)]; }
    bool bound(int rank) const { return bound_[at(rank)]; }  // one side alone can compute it
    // They can change places without anything else changing.
    bool alike(int one, int other) const { return kinds_[at(one)] == kinds_[at(other)]; }
    const LaneCosts& costs() const { return costs_; }
    const LaneClocks& clocks() const { return clocks_; }

    // When both sides are done, given the orders that are best where more rows never cost less. REQUIRES that the bound
    // are where they must be, and that sides.link has what is on the SSD by rank among each other.
    Finish finish(const Sides& sides);
    // Those orders.
    void orders(const Sides& sides, LaneOrders& orders);

    // What the load becomes when one changes to the other side.
    void change(Load& load, int rank, bool to_cpu) const;
    // No choice with this load, and no choice at all, is done sooner.
    double least(const Load& load) const;
    double least() const { return least_; }

  private:
    // From the end of an item's read until its side can be done.
    struct Tail {
        double after;
        int rank;
    };

    double last_read_computed() const;
    static std::size_t at(int rank) { return static_cast<std::size_t>(rank); }
    Finish measure(const Sides& sides);
    template <class Read>
    void each_read(const Read& read) const;

    int hosts_ = 0, reads_ = 0;
    LaneCosts costs_;
    LaneClocks clocks_;
    double least_ = 0;
    std::vector<int> items_;  // by rank, like all that follow
    std::vector<int> kinds_;
    std::vector<double> cpu_, device_;
    std::vector<char> bound_;

    // Of the choice looked at last: its reads for each side, shortest tail first, behind one that is shorter still.
    std::vector<Tail> cpu_tails_, device_tails_;
    std::size_t cpu_reads_ = 0, device_reads_ = 0;
};

}  // namespace moestro::policy
