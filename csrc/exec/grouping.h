// Rows by expert: a counting sort of a layer's routing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace moestro::exec {

// A pair is one (row, j) of the router's ids [rows, top_k]. Pairs of one expert lie together, rows ascending. Keeps its
// memory between calls.
class Grouping {
  public:
    // Throws Error(usage) for an id outside [0, experts), naming its row.
    void group(const std::int32_t* ids, int rows, int top_k, int experts);

    int distinct() const { return static_cast<int>(experts_.size()); }
    std::int32_t expert(int group) const { return experts_[static_cast<std::size_t>(group)]; }  // ascending
    int begin(int group) const { return begin_[static_cast<std::size_t>(group)]; }              // of the group's places
    int pairs(int group) const { return begin(group + 1) - begin(group); }
    std::span<const std::int32_t> rows(int group) const {
        return std::span(rows_).subspan(static_cast<std::size_t>(begin(group)), static_cast<std::size_t>(pairs(group)));
    }
    // Where pair (row, j) is in that order.
    std::span<const std::int32_t> places() const { return places_; }

  private:
    std::vector<std::int32_t> experts_, begin_;  // distinct, distinct + 1
    std::vector<std::int32_t> rows_, places_;    // rows * top_k
    std::vector<std::int32_t> next_;             // by expert
};

}  // namespace moestro::exec
