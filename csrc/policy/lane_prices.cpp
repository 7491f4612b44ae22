#include "policy/lane_prices.h"

#include <cmath>
#include <limits>

namespace moestro::policy {

namespace {

constexpr int kRounds = 12, kRoundsOfAStep = 4;
constexpr double kLargestStep = 0.1;

// What becomes of a price when its lane is done at `share` of the makespan: steps get smaller as rounds go by.
double step(double share, int round) {
    double factor = std::max(share, kLargestStep);
    for (int i = 0; i < round / kRoundsOfAStep; ++i) factor = std::sqrt(factor);
    return factor;
}

}  // namespace

void LanePrices::run(RankedWork& work, Sides& sides) {
    const LaneClocks& clocks = work.clocks();
    const LaneCosts& costs = work.costs();
    double cpu = 1, device = 1, link = 1;
    double best = std::numeric_limits<double>::infinity();
    for (int round = 0; round < kRounds; ++round) {
        for (int rank = 0; rank < work.count(); ++rank) {
            const double sent = rank < work.hosts() ? 0 : link * costs.link;
            const bool cheaper = cpu * work.cpu(rank) < device * work.device(rank) + sent;
            sides.on_cpu[static_cast<std::size_t>(rank)] = cheaper && !work.bound(rank);
        }
        const Finish finish = work.finish(sides);
        const Load& load = finish.load;
        const double makespan = finish.makespan();
        if (makespan < best) {
            best = makespan;
            best_.assign(sides.on_cpu.begin(), sides.on_cpu.end());
        }
        const double sending = load.sent > 0 ? clocks.link + load.sent * costs.link : 0;
        const double computing = load.on_device > 0 ? clocks.device + load.device : 0;
        cpu *= step(finish.cpu / makespan, round);
        device *= step(computing / makespan, round);
        link *= step(sending / makespan, round);
        const double dearest = std::max({cpu, device, link});
        cpu /= dearest;
        device /= dearest;
        link /= dearest;
    }
    sides.on_cpu.assign(best_.begin(), best_.end());
}

}  // namespace moestro::policy
