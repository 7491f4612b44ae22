// What is in a cache before anybody asks.
#pragma once

#include <span>

#include "residency/expert_cache.h"
#include "store/expert_table.h"

namespace moestro::residency {

// Loads as many records as the cache has room for: those used most, where frequencies are known (by number, as a trace
// counted them: Fiddler's placement, ICLR 2025); else the first layers', as llama.cpp's --n-cpu-moe. Waits for them.
void fill(ExpertCache& cache, const store::ExpertTable& table, std::span<const double> frequencies = {});

}  // namespace moestro::residency
