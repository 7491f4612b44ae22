// How fast all threads together read memory: 1, 2 and 4 streams per thread, with and without software prefetch.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "peaks.h"

namespace moestro::bench {

std::vector<ReadRate> measure_reads(ThreadPool& pool);

}  // namespace moestro::bench
