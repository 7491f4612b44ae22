// Random layers, with costs spread over orders of magnitude around those of real machines.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "policy/layer_plan.h"

namespace moestro::policy::testing {

struct RandomLayer {
    std::vector<WorkItem> items;
    LaneCosts costs;
    LaneClocks clocks;
    LayerWork work() const { return {items, costs, clocks}; }
    // What was on it is in host memory.
    void take_device_away() {
        costs.has_device = false;
        for (WorkItem& item : items)
            if (item.where == Where::device) item.where = Where::host;
    }
};

// Bits of std::mt19937 alone: the same layers everywhere.
class RandomLayers {
  public:
    explicit RandomLayers(unsigned seed) : bits_(seed) {}

    // Around an RTX A6000 beside a Xeon (HybriMoE's machine): the device takes 100 us whatever the rows, the link three
    // times as long, the CPU as long as the link for a row or two, an SSD seven times as long; each up to ten times
    // more or less. Half of the layers are of decoding (one row each), some lanes are busy.
    RandomLayer next(int count) {
        RandomLayer made;
        const bool decode = chance(0.5);
        const double on_device = uniform(), on_ssd = uniform();
        for (int i = 0; i < count; ++i) {
            WorkItem item{i, decode ? 1 : rows(), Where::host};
            item.where = chance(on_device) ? Where::device : chance(on_ssd) ? Where::ssd : Where::host;
            item.host_copy = !chance(0.1);
            made.items.push_back(item);
        }
        LaneCosts& costs = made.costs;
        costs.has_device = true;
        costs.device = {around(100e3), around(3e3)};
        costs.link = around(300e3);
        costs.cpu = {around(50e3), around(150e3)};
        costs.cpu_start = chance(0.5) ? around(100e3) : 0;
        costs.ssd = around(2e6);
        for (double* clock : {&made.clocks.cpu, &made.clocks.device, &made.clocks.link, &made.clocks.ssd})
            if (chance(0.25)) *clock = around(300e3);
        return made;
    }
    double uniform() { return static_cast<double>(bits_()) / 4294967296.0; }
    bool chance(double probability) { return uniform() < probability; }
    int below(int limit) { return static_cast<int>(uniform() * limit); }

  private:
    double around(double nanos) { return nanos * std::pow(10, 2 * uniform() - 1); }
    // 1 to 64, few more often than many.
    int rows() { return static_cast<int>(std::pow(64.99, uniform())); }

    std::mt19937 bits_;
};

}  // namespace moestro::policy::testing
