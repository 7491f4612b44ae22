#include "policy/transition_tables.h"

#include <algorithm>
#include <utility>

#include "policy/routing_table.h"

namespace moestro::policy {

namespace {

std::size_t at(std::int32_t number) {
    return static_cast<std::size_t>(number);
}

// Tokens of the table in the order of their slots.
std::vector<std::size_t> order_by_slot(const RoutingTable& table,
                                       const std::unordered_map<std::int32_t, std::size_t>& slots) {
    std::vector<std::size_t> order;
    for (std::size_t token = 0; token < table.tokens.size(); ++token)
        if (table.tokens[token] >= 0) order.push_back(token);
    std::stable_sort(order.begin(), order.end(), [&](std::size_t one, std::size_t other) {
        return slots.at(table.tokens[one]) < slots.at(table.tokens[other]);
    });
    return order;
}

}  // namespace

TransitionTables::TransitionTables(const ExpertSet& experts, const RoutingTable& table)
    : layers_(experts.layers.size()) {
    for (const std::int32_t token : table.tokens) {
        if (token < 0) continue;
        const auto [found, is_new] = slots_.emplace(token, seen_.size());
        if (is_new) seen_.push_back(0);
        ++seen_[found->second];
    }
    const std::vector<std::size_t> by_slot = order_by_slot(table, slots_);
    for (std::size_t position = 0; position < layers_.size(); ++position) {
        Layer& layer = layers_[position];
        layer.experts = experts.layers[position].experts;
        // Here the prior is that experts are equal: one more token that uses a little of each.
        const float each = static_cast<float>(table.top_k) / static_cast<float>(layer.experts);
        layer.popularity.assign(at(layer.experts), each);
        for (std::size_t token = 0; token < table.tokens.size(); ++token)
            for (const std::int32_t expert : chosen_by(table, position, token)) ++layer.popularity[at(expert)];
        for (float& share : layer.popularity) share /= static_cast<float>(table.count() + 1);
        if (position > 0) count_after(table, position);
        count_by_token(table, position, by_slot);
    }
}

void TransitionTables::count_after(const RoutingTable& table, std::size_t position) {
    Layer& layer = layers_[position];
    const std::size_t before = at(layers_[position - 1].experts), experts = at(layer.experts);
    std::vector<float> tokens(before, kPrior);
    layer.after.resize(before * experts);
    for (std::size_t i = 0; i < layer.after.size(); ++i) layer.after[i] = kPrior * layer.popularity[i % experts];
    for (std::size_t token = 0; token < table.tokens.size(); ++token)
        for (const std::int32_t from : chosen_by(table, position - 1, token)) {
            ++tokens[at(from)];
            for (const std::int32_t to : chosen_by(table, position, token)) ++layer.after[at(from) * experts + at(to)];
        }
    for (std::size_t i = 0; i < layer.after.size(); ++i) layer.after[i] /= tokens[i / experts];
}

void TransitionTables::count_by_token(const RoutingTable& table, std::size_t position,
                                      std::span<const std::size_t> by_slot) {
    Layer& layer = layers_[position];
    std::vector<std::int32_t> counts(at(layer.experts));
    std::size_t next = 0;
    for (const std::size_t seen : seen_) {
        layer.begins.push_back(layer.uses.size());
        for (const std::size_t token : by_slot.subspan(next, seen))
            for (const std::int32_t expert : chosen_by(table, position, token))
                if (counts[at(expert)]++ == 0) layer.uses.push_back({expert, 0});
        for (std::size_t i = layer.begins.back(); i < layer.uses.size(); ++i)
            layer.uses[i].count = std::exchange(counts[at(layer.uses[i].expert)], 0);
        next += seen;
    }
    layer.begins.push_back(layer.uses.size());
    layer.uses.shrink_to_fit();
}

void TransitionTables::of_token(std::size_t position, std::int32_t token, std::span<float> shares) const {
    const Layer& layer = layers_[position];
    std::copy(layer.popularity.begin(), layer.popularity.end(), shares.begin());
    const auto found = slots_.find(token);
    if (found == slots_.end()) return;
    const std::size_t slot = found->second;
    const float tokens = static_cast<float>(seen_[slot]) + kPrior;
    for (float& share : shares) share *= kPrior / tokens;
    for (std::size_t i = layer.begins[slot]; i < layer.begins[slot + 1]; ++i)
        shares[at(layer.uses[i].expert)] += static_cast<float>(layer.uses[i].count) / tokens;
}

void TransitionTables::after(std::size_t position, std::span<const std::int32_t> chosen,
                             std::span<float> shares) const {
    const Layer& layer = layers_[position];
    std::fill(shares.begin(), shares.end(), 0.0f);
    for (const std::int32_t from : chosen)
        for (std::size_t to = 0; to < shares.size(); ++to) shares[to] += layer.after[at(from) * shares.size() + to];
    for (float& share : shares) share /= static_cast<float>(chosen.size());
}

}  // namespace moestro::policy
