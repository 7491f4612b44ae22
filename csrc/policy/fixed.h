// Policy "static": experts are worth as much as they were used in a trace, for ever (Fiddler, ICLR 2025, places them
// so). The least used resident one goes first, so the most used ones stay once they came.
#pragma once

#include <memory>

#include "policy/eviction.h"

namespace moestro::policy {

std::unique_ptr<Eviction> make_static(const EvictionSettings& settings);

}  // namespace moestro::policy
