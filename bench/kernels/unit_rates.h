// How many multiply-adds per second the arithmetic units do from registers, per instruction set and type of this CPU.
#pragma once

#include <vector>

#include "base/thread_pool.h"
#include "peaks.h"

namespace moestro::bench {

std::vector<UnitRate> measure_units(ThreadPool& pool);

}  // namespace moestro::bench
