// What this machine can do at most, measured by the benchmark binary itself before it runs anything.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace moestro::bench {

// Reading far more memory than caches hold: every thread walks `streams` sequential streams at a time.
struct ReadRate {
    int streams = 1;
    bool prefetch = false;
    double bytes_per_second = 0;
};

// Multiply-adds of one instruction set and one type, two operations each.
struct UnitRate {
    std::string isa;   // "avx2", "avx512"
    std::string type;  // "f32", "bf16", "int8": of what is multiplied
    double operations_per_second = 0;
};

struct Peaks {
    int threads = 1;
    double read_bytes_per_second = 0;  // the best of `reads`
    std::vector<ReadRate> reads;
    std::vector<UnitRate> units;  // what this CPU has
};

// Measured once per number of threads.
const Peaks& peaks(int threads);

// The rate of one of them, or null where this CPU has no such unit.
const UnitRate* unit_of(const Peaks& peaks, std::string_view isa, std::string_view type);

// One JSON object, for whoever compares a whole run with these limits.
std::string to_json(const Peaks& peaks);

}  // namespace moestro::bench
