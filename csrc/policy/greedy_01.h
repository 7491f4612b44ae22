// DALI's greedy answer to its 0-1 program (2602.03495): experts in the order of how much it matters who computes them,
// each to the side whose work, transfers included, then ends sooner.
#pragma once

#include <memory>
#include <vector>

#include "policy/planner.h"
#include "policy/timeline.h"

namespace moestro::policy {

std::unique_ptr<Planner> make_greedy_01();

// Its choice alone. One thread at a time; keeps scratch between calls.
class Greedy01Sides {
  public:
    // By item. REQUIRES a device.
    void choose(const LayerWork& work, std::vector<Side>& sides);

  private:
    struct Choice {
        int item = 0;
        double cpu = 0, device = 0, matters = 0;
    };
    std::vector<Choice> choices_;
};

}  // namespace moestro::policy
