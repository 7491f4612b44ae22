// Who computes each expert of a layer. A planner is told where the records are and what the lanes cost, and decides; it
// moves and measures nothing, so the same object serves a run and a simulation.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "policy/layer_plan.h"

namespace moestro::policy {

// One thread at a time. A plan is a function of the work alone.
class Planner {
  public:
    virtual ~Planner() = default;
    virtual std::string_view name() const = 0;

    // Whether device memory that is left should fill up with what the CPU computed.
    virtual bool fills_device() const { return true; }

    // Replaces what is in `plan`, whose room is used again. Every item is computed once.
    virtual void plan(const LayerWork& work, LayerPlan& plan) = 0;
};

// Throws Error(usage) naming the known planners.
std::unique_ptr<Planner> make_planner(std::string_view name);
// Throws Error(usage) naming the known planners, where it is none of them.
void require_planner(std::string_view name);
const std::vector<std::string_view>& planner_names();

}  // namespace moestro::policy
