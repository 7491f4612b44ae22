// Decode's attention over a long context: how fast keys and values are read.
#pragma once

#include "products.h"

namespace moestro::bench {

// A launch has one row of each of `rows` sequences.
void measure_attention(const Setting& setting, int context, int rows);

}  // namespace moestro::bench
