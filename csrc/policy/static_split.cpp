#include "policy/static_split.h"

#include "policy/timeline.h"

namespace moestro::policy {

namespace {

class StaticSplit final : public Planner {
  public:
    std::string_view name() const override { return "static"; }

    void plan(const LayerWork& work, LayerPlan& plan) override {
        sides_.clear();
        for (const WorkItem& item : work.items)
            sides_.push_back(item.where == Where::device ? Side::device : Side::cpu);
        orders_as_listed(work, sides_, orders_);
        timeline_.run(work, orders_, plan);
    }

  private:
    std::vector<Side> sides_;
    LaneOrders orders_;
    Timeline timeline_;
};

}  // namespace

std::unique_ptr<Planner> make_static_split() {
    return std::make_unique<StaticSplit>();
}

}  // namespace moestro::policy
