#include "policy/activation_collection.h"

#include <algorithm>

#include "base/error.h"

namespace moestro::policy {

ActivationCollection::ActivationCollection(int experts, int capacity)
    : capacity_(static_cast<std::size_t>(capacity)), holders_(static_cast<std::size_t>(experts)) {}

void ActivationCollection::add(std::span<const std::int32_t> used) {
    MOESTRO_CHECK(!used.empty());
    std::size_t place = used_.size();
    if (place < capacity_) {
        used_.emplace_back();
    } else {
        place = most_similar(used);
        for (const std::int32_t expert : used_[place]) {
            auto& holders = holders_[static_cast<std::size_t>(expert)];
            *std::find(holders.begin(), holders.end(), place) = holders.back();
            holders.pop_back();
        }
    }
    used_[place].assign(used.begin(), used.end());
    for (const std::int32_t expert : used)
        holders_[static_cast<std::size_t>(expert)].push_back(static_cast<std::uint16_t>(place));
}

std::size_t ActivationCollection::most_similar(std::span<const std::int32_t> used) {
    shared_.assign(used_.size(), 0);
    for (const std::int32_t expert : used)
        for (const std::uint16_t matrix : holders(expert)) ++shared_[matrix];
    std::size_t found = 0;
    double most = -1;
    for (std::size_t matrix = 0; matrix < used_.size(); ++matrix) {
        // The square of the cosine, but for what they all have in common.
        const double shared = shared_[matrix];
        const double similarity = shared * shared / static_cast<double>(used_[matrix].size());
        if (similarity > most) {
            most = similarity;
            found = matrix;
        }
    }
    return found;
}

}  // namespace moestro::policy
