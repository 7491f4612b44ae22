// What becomes of a layer when every lane is told what to do in which order: the one simulation that all planners'
// plans come from.
#pragma once

#include <vector>

#include "policy/layer_plan.h"

namespace moestro::policy {

enum class Side : std::uint8_t { cpu, device };

// Items, by their positions in the layer's list.
struct LaneOrders {
    std::vector<int> ssd, link, cpu, device;
};

// One thread at a time; keeps scratch between calls.
class Timeline {
  public:
    // Each lane takes its items one after the other, in the order given, each as soon as the lane is free and the
    // record is where it is needed. Replaces what is in `plan`. Throws Error(internal) unless every item is read
    // exactly if it is on the SSD, sent exactly if the device computes it and does not have it, and computed once, by
    // a side that can.
    void run(const LayerWork& work, const LaneOrders& orders, LayerPlan& plan);

  private:
    void check(const LayerWork& work, const LaneOrders& orders);

    std::vector<double> ready_;     // by item: since when it is where the next lane needs it
    std::vector<unsigned> passed_;  // by item: the lanes it goes through
    std::vector<Operation> lanes_[kLanes];
};

// The orders of planners that decide about sides alone (by item): reads as listed, the link and both sides first what
// is there, as listed, then what arrives, as it arrives.
void orders_as_listed(const LayerWork& work, const std::vector<Side>& sides, LaneOrders& orders);

}  // namespace moestro::policy
