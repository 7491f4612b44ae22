// Which resident expert to give up. A policy is told what happens and decides; it knows no bytes, weights, time or
// threads, so the same object serves a run and a simulation.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/types.h"

namespace moestro::policy {

// What a policy decides about. Layers without experts are not in it.
struct ExpertSet {
    struct Layer {
        int layer = 0;
        int experts = 0;
    };
    std::vector<Layer> layers;  // ascending

    int experts() const;
    // Throws Error(internal) for a layer that is not in it.
    std::size_t position(int layer) const;
};

// What some policies are made with.
struct EvictionSettings {
    ExpertSet experts = {};
    // "static": how often each was used in a trace, layer after layer; empty where there is none.
    std::vector<double> frequencies = {};
};

// An expert of a layer with the router's softmax over all of the layer's experts.
struct ScoredExpert {
    std::int32_t expert = 0;
    float score = 0;
};

using Evictable = std::function<bool(ExpertId)>;

// One thread at a time. A record is resident from on_insert to on_evict; both alternate for each expert.
class Eviction {
  public:
    virtual ~Eviction() = default;
    virtual std::string_view name() const = 0;

    // How many records may be resident: told before anything else, and again when it changes.
    virtual void on_capacity(int /*records*/) {}
    // The record was given a slot (its load began).
    virtual void on_insert(ExpertId id) = 0;
    // What follows, until the next call, is of one accepted token. Told at the end of a step.
    virtual void on_token() {}
    // What the router of a layer thought of an accepted token's 2 top_k best experts (or of all, if they are fewer),
    // best first. Told at the end of a step, before the token's uses in that layer, to policies that want it.
    virtual bool wants_scores() const { return false; }
    virtual void on_scores(int /*layer*/, std::span<const ScoredExpert> /*best*/) {}
    // An accepted token used the expert. Told at the end of a step, in (token, layer, id) order; the expert need not be
    // resident any more.
    virtual void on_use(ExpertId id) = 0;
    // The record lost its slot.
    virtual void on_evict(ExpertId id) = 0;

    // The resident expert to give up first among those for which `evictable` holds, to make room for `incoming` where
    // that is known; nothing when it holds for none. Changes nothing that shows in another answer.
    virtual std::optional<ExpertId> victim(const Evictable& evictable, std::optional<ExpertId> incoming) = 0;
};

// Throws Error(usage) naming the known policies, or saying what the policy lacks.
std::unique_ptr<Eviction> make_eviction(std::string_view name, const EvictionSettings& settings = {});
// Throws Error(usage) naming the known policies, where it is none of them.
void require_eviction(std::string_view name);
const std::vector<std::string_view>& eviction_names();

}  // namespace moestro::policy
