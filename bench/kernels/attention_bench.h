// Attention over keys and values far larger than caches.
#pragma once

#include <string>

#include "kernels/compute.h"

namespace moestro::bench {

// One row at the end of a context (decode) and 512 rows at the end of one (prefill), for every KV type. The bytes of a
// case are those of the keys and values seen, each once; its operations are the multiply-adds of visible keys.
void add_attention(kernels::Compute& compute, const std::string& isa);

}  // namespace moestro::bench
