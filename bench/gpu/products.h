// Experts and linears through kernels/cuda/launch.h: bytes per second where weights stream, operations per second where
// many rows share them.
#pragma once

#include "device.h"
#include "kernels/compute.h"
#include "results.h"

namespace moestro::bench {

struct Setting {
    kernels::Compute& compute;  // of the processor, whose bits are expected
    const Stream& stream;
    const Limits& limits;
    const Results& results;
    std::size_t megabytes;  // of weights that a measurement passes over at least
};

struct ExpertShape {
    int hidden, width;
};

// Records of one shape and format: launches of 8, 16 and 64 with 1, 2, 4 and 8 rows each.
void measure_decode(const Setting& setting, const ExpertShape& shape, quant::Format format);
// 64 of them share the rows of 128, 512 and 2048 tokens, some many and some few.
void measure_grouped_prefill(const Setting& setting, const ExpertShape& shape, quant::Format format);
// One matrix [rows, cols] over so many input rows. A trunk's linear reads its weights once per step: few rows are
// held against the reading limit, many against tensor cores.
void measure_linear(const Setting& setting, int rows, int cols, quant::Format format, const std::vector<int>& inputs);

}  // namespace moestro::bench
