#include "policy/by_place.h"

#include "policy/timeline.h"

namespace moestro::policy {

namespace {

using Choice = bool(const WorkItem&);  // whether the device computes it

class ByPlace final : public Planner {
  public:
    ByPlace(std::string_view name, Choice& on_device) : name_(name), on_device_(on_device) {}
    std::string_view name() const override { return name_; }
    bool fills_device() const override { return false; }

    void plan(const LayerWork& work, LayerPlan& plan) override {
        sides_.clear();
        for (const WorkItem& item : work.items)
            sides_.push_back(work.costs.has_device && on_device_(item) ? Side::device : Side::cpu);
        orders_as_listed(work, sides_, orders_);
        timeline_.run(work, orders_, plan);
    }

  private:
    const std::string_view name_;
    Choice& on_device_;
    std::vector<Side> sides_;
    LaneOrders orders_;
    Timeline timeline_;
};

}  // namespace

std::unique_ptr<Planner> make_on_demand() {
    return std::make_unique<ByPlace>(
        "on_demand", *+[](const WorkItem&) { return true; });
}

std::unique_ptr<Planner> make_static_split() {
    return std::make_unique<ByPlace>(
        "static", *+[](const WorkItem& item) { return item.where == Where::device; });
}

std::unique_ptr<Planner> make_cpu_only() {
    return std::make_unique<ByPlace>(
        "cpu", *+[](const WorkItem& item) { return item.where == Where::device && !item.host_copy; });
}

}  // namespace moestro::policy
