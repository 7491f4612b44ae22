// The least misses that any policy could have (Belady 1966, with bypass): of what is resident and what comes, the one
// whose next use is furthest away is not kept. It knows the future, so it is a bound for traces and no policy of a run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/types.h"

namespace moestro::policy {

// Accesses in order, of records of one size, with room for `records`; each that is not resident is a miss. groups: the
// ends of accesses that are made together, as a layer makes those of a step's rows: all of them see what was resident
// before (empty: each is made alone). Misses are counted from the group `first` on.
std::int64_t belady_misses(std::span<const ExpertId> accesses, int records, std::span<const std::size_t> groups = {},
                           std::size_t first = 0);

}  // namespace moestro::policy
