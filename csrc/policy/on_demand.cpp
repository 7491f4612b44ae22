#include "policy/on_demand.h"

#include "policy/timeline.h"

namespace moestro::policy {

namespace {

class OnDemand final : public Planner {
  public:
    std::string_view name() const override { return "on_demand"; }

    void plan(const LayerWork& work, LayerPlan& plan) override {
        sides_.assign(work.items.size(), work.costs.has_device ? Side::device : Side::cpu);
        orders_as_listed(work, sides_, orders_);
        timeline_.run(work, orders_, plan);
    }

  private:
    std::vector<Side> sides_;
    LaneOrders orders_;
    Timeline timeline_;
};

}  // namespace

std::unique_ptr<Planner> make_on_demand() {
    return std::make_unique<OnDemand>();
}

}  // namespace moestro::policy
