// Sides from prices: every lane has a price for its time, an expert goes where it is cheaper, and the lanes that are
// done sooner than the layer get cheaper, a few times over. It is the Lagrangian relaxation of "the last lane ends as
// early as possible", and finds the right mixture of experts for each side where there are many.
#pragma once

#include <vector>

#include "policy/ranked_work.h"

namespace moestro::policy {

// One thread at a time; keeps scratch between calls.
class LanePrices {
  public:
    // Sets sides.on_cpu to the best of the choices that the prices led to. REQUIRES a device.
    void run(RankedWork& work, Sides& sides);

  private:
    std::vector<char> best_;
};

}  // namespace moestro::policy
