#include "store/expert_table.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moestro::store {

ExpertTable::ExpertTable(std::vector<Layer> layers) : sizes_(std::move(layers)) {
    require(!sizes_.empty(), ErrorKind::usage, "a model without expert layers needs no table of experts");
    first_.push_back(0);
    for (const Layer& one : sizes_) {
        require(one.layer >= 0, ErrorKind::usage, "layer numbers start at 0; got ", one.layer);
        require(one.experts > 0, ErrorKind::usage, "layer ", one.layer, " has no experts");
        require(one.record_bytes > 0 && one.record_bytes % kPageBytes == 0, ErrorKind::usage, "layer ", one.layer,
                ": a record is a multiple of 4096 bytes; got ", one.record_bytes);
        require(static_cast<std::size_t>(one.layer) >= position_.size(), ErrorKind::usage, "layer ", one.layer,
                " was given twice, or layers do not ascend");
        position_.resize(static_cast<std::size_t>(one.layer) + 1, -1);
        position_.back() = static_cast<int>(first_.size()) - 1;
        first_.push_back(first_.back() + one.experts);
    }
}

ExpertId ExpertTable::id(int number) const {
    const auto after = std::upper_bound(first_.begin(), first_.end(), number);
    const auto position = static_cast<std::size_t>(after - first_.begin()) - 1;
    return {sizes_[position].layer, number - first_[position]};
}

std::size_t ExpertTable::position(int layer) const {
    const bool known = layer >= 0 && static_cast<std::size_t>(layer) < position_.size() &&
                       position_[static_cast<std::size_t>(layer)] >= 0;
    require(known, ErrorKind::usage, "layer ", layer, " has no experts");
    return static_cast<std::size_t>(position_[static_cast<std::size_t>(layer)]);
}

std::uint64_t ExpertTable::record_bytes() const {
    std::uint64_t all = 0;
    for (const Layer& one : sizes_) all += static_cast<std::uint64_t>(one.experts) * one.record_bytes;
    return all;
}

std::size_t ExpertTable::largest_record() const {
    std::size_t largest = 0;
    for (const Layer& one : sizes_) largest = std::max(largest, one.record_bytes);
    return largest;
}

}  // namespace moestro::store
