#include "policy/greedy_01.h"

#include <algorithm>
#include <cmath>

namespace moestro::policy {

namespace {

class Greedy01 final : public Planner {
  public:
    std::string_view name() const override { return "greedy_01"; }

    void plan(const LayerWork& work, LayerPlan& plan) override {
        sides_.assign(work.items.size(), Side::cpu);
        if (work.costs.has_device) choice_.choose(work, sides_);
        orders_as_listed(work, sides_, orders_);
        timeline_.run(work, orders_, plan);
    }

  private:
    Greedy01Sides choice_;
    std::vector<Side> sides_;
    LaneOrders orders_;
    Timeline timeline_;
};

}  // namespace

// Reads count for neither side: whoever computes the expert waits for them.
void Greedy01Sides::choose(const LayerWork& work, std::vector<Side>& sides) {
    const LaneCosts& costs = work.costs;
    choices_.clear();
    for (int i = 0; i < static_cast<int>(work.items.size()); ++i) {
        const WorkItem& item = work.items[static_cast<std::size_t>(i)];
        const double cpu = costs.cpu.at(item.rows);
        const double device = costs.device.at(item.rows) + (item.where == Where::device ? 0 : costs.link);
        choices_.push_back({i, cpu, device, std::abs(cpu - device)});
    }
    std::sort(choices_.begin(), choices_.end(), [](const Choice& one, const Choice& other) {
        return one.matters != other.matters ? one.matters > other.matters : one.item < other.item;
    });
    sides.resize(work.items.size());
    double cpu = work.clocks.cpu + costs.cpu_start, device = work.clocks.device;
    for (const Choice& choice : choices_) {
        const auto i = static_cast<std::size_t>(choice.item);
        const bool bound = work.items[i].where == Where::device && !work.items[i].host_copy;
        sides[i] = bound || device + choice.device <= cpu + choice.cpu ? Side::device : Side::cpu;
        (sides[i] == Side::device ? device : cpu) += sides[i] == Side::device ? choice.device : choice.cpu;
    }
}

std::unique_ptr<Planner> make_greedy_01() {
    return std::make_unique<Greedy01>();
}

}  // namespace moestro::policy
