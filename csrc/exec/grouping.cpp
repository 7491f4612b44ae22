#include "exec/grouping.h"

#include "base/error.h"
#include "base/exact.h"

namespace moestro::exec {

void Grouping::group(const std::int32_t* ids, int rows, int top_k, int experts) {
    const std::size_t pairs = static_cast<std::size_t>(rows) * static_cast<std::size_t>(top_k);
    next_.assign(static_cast<std::size_t>(experts), 0);
    for (std::size_t pair = 0; pair < pairs; ++pair) {
        require(ids[pair] >= 0 && ids[pair] < experts, ErrorKind::usage, "expert ids are 0 to ", experts - 1, "; row ",
                pair / static_cast<std::size_t>(top_k), " names ", ids[pair]);
        ++next_[static_cast<std::size_t>(ids[pair])];
    }

    experts_.clear();
    begin_.assign(1, 0);
    for (std::int32_t expert = 0; expert < experts; ++expert) {
        std::int32_t& next = next_[static_cast<std::size_t>(expert)];
        if (next == 0) continue;
        experts_.push_back(expert);
        begin_.push_back(begin_.back() + next);
        next = begin_[begin_.size() - 2];
    }

    resize_exactly(rows_, pairs);
    resize_exactly(places_, pairs);
    for (std::size_t pair = 0; pair < pairs; ++pair) {
        const std::int32_t place = next_[static_cast<std::size_t>(ids[pair])]++;
        rows_[static_cast<std::size_t>(place)] = static_cast<std::int32_t>(pair / static_cast<std::size_t>(top_k));
        places_[pair] = place;
    }
}

}  // namespace moestro::exec
