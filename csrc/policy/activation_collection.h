// A bounded collection of expert activation matrices [layers, experts], of one token each: 1 where the token used the
// expert. They are sparse, and kept as the experts they hold.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moestro::policy {

class ActivationCollection {
  public:
    // Experts are numbered through all layers. REQUIRES 1 <= capacity <= 65536
    ActivationCollection(int experts, int capacity);

    int size() const { return static_cast<int>(used_.size()); }
    // Ascending.
    std::span<const std::int32_t> used(int matrix) const { return used_[static_cast<std::size_t>(matrix)]; }
    // In no order.
    std::span<const std::uint16_t> holders(std::int32_t expert) const {
        return holders_[static_cast<std::size_t>(expert)];
    }

    // Adds a matrix; when there is no room it takes the place of the one most similar to it by cosine, of several the
    // one that was there first: what is often seen does not crowd out what is not. `used`: ascending, each once, at
    // least one.
    void add(std::span<const std::int32_t> used);

  private:
    std::size_t most_similar(std::span<const std::int32_t> used);

    const std::size_t capacity_;
    std::vector<std::vector<std::int32_t>> used_;      // by matrix
    std::vector<std::vector<std::uint16_t>> holders_;  // by expert
    std::vector<std::int32_t> shared_;                 // with the one to be added, by matrix
};

}  // namespace moestro::policy
