// What this machine can do at most, measured by the benchmark binary itself before it runs anything.
#pragma once

namespace moestro::bench {

struct Peaks {
    double read_bytes_per_second = 0;  // streaming through far more memory than caches hold
    double flops = 0;                  // float32 multiply-adds of the best instruction set, two operations each
};

// Measured once per number of threads.
const Peaks& peaks(int threads);

}  // namespace moestro::bench
