// The least misses that any policy could have (Belady 1966, with bypass): of what is resident and what comes, the one
// whose next use is furthest away is not kept. It knows the future, so it is a bound for traces and no policy of a run.
#pragma once

#include <cstdint>
#include <span>

#include "base/types.h"

namespace moestro::policy {

// Accesses in order, of records of one size, with room for `records`; each that is not resident is a miss.
std::int64_t belady_misses(std::span<const ExpertId> accesses, int records);

}  // namespace moestro::policy
