// Which experts a model has and how large their records are: what a cache needs to know of them, and a simulated one
// has no more.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/types.h"

namespace moestro::store {

// Immutable.
class ExpertTable {
  public:
    struct Layer {
        int layer = 0;
        int experts = 0;
        std::size_t record_bytes = 0;  // a multiple of 4096
    };

    // Throws Error(usage) unless layers ascend, and have experts with records of whole pages.
    explicit ExpertTable(std::vector<Layer> layers);

    const std::vector<Layer>& sizes() const { return sizes_; }
    // Experts counted through all layers: a dense number for tables.
    int experts() const { return first_.back(); }
    int number(ExpertId id) const { return first_[position(id.layer)] + id.expert; }
    ExpertId id(int number) const;
    // Of a layer among those that have experts. Throws Error(usage) for one that has none.
    std::size_t position(int layer) const;
    std::uint64_t record_bytes() const;  // of all experts together
    std::size_t largest_record() const;

  private:
    std::vector<Layer> sizes_;
    std::vector<int> position_;  // by layer; -1 = no experts
    std::vector<int> first_;     // by position: number of the layer's first expert; one more at the end
};

}  // namespace moestro::store
