// Which resident expert to give up. A policy is told what happens and decides; it knows no bytes, weights, time or
// threads, so the same object serves a run and a simulation.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace moestro::policy {

// One thread at a time. A record is resident from on_insert to on_evict; both alternate for each expert.
class Eviction {
  public:
    virtual ~Eviction() = default;
    virtual std::string_view name() const = 0;

    // The record was given a slot (its load began).
    virtual void on_insert(ExpertId id) = 0;
    // An accepted token used the expert. Told at the end of a step, in (token, layer, id) order; the expert need not be
    // resident any more.
    virtual void on_use(ExpertId id) = 0;
    // The record lost its slot.
    virtual void on_evict(ExpertId id) = 0;

    // The resident expert to give up first among those for which `evictable` holds; nothing when it holds for none.
    virtual std::optional<ExpertId> victim(const std::function<bool(ExpertId)>& evictable) const = 0;
};

// Throws Error(usage) naming the known policies.
std::unique_ptr<Eviction> make_eviction(std::string_view name);
const std::vector<std::string_view>& eviction_names();

}  // namespace moestro::policy
