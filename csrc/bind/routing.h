// Routing records and what is learnt from them, as Python sees them: arrays.
#pragma once

#include <vector>

#include "bind/bind.h"
#include "exec/prefetcher.h"

namespace moestro::bind {

// float32 [layers, distances, experts], padded with zeros, and back.
py::object offset_array(const std::vector<std::vector<std::vector<float>>>& offsets);
std::vector<std::vector<std::vector<float>>> offset_lists(const py::object& offsets);
// One dict per layer with experts.
py::list prefetch_dicts(const std::vector<exec::PrefetchCounters>& counters);

}  // namespace moestro::bind
