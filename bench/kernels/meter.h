// What every case shares: numbers to compute with, and how its rates are reported.
#pragma once

#include <benchmark/benchmark.h>

#include <chrono>
#include <cstddef>
#include <random>
#include <vector>

#include "peaks.h"

namespace moestro::bench {

constexpr std::size_t kFarBeyondCaches = std::size_t{192} << 20;

inline std::vector<float> normal(std::size_t count) {
    std::mt19937 generator(1);
    std::normal_distribution<float> draw;
    std::vector<float> values(count);
    for (float& value : values) value = draw(generator);
    return values;
}

// Started before a benchmark's loop, asked after it.
class Meter {
  public:
    explicit Meter(int threads) : peaks_(peaks(threads)), start_(std::chrono::steady_clock::now()) {}

    // bytes, operations: of one iteration. Rates, and their shares of reading memory and of the unit that multiplies
    // (peaks.h; left out where that unit was not measured).
    void report(benchmark::State& state, double bytes, double operations, const UnitRate* unit) const {
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start_;
        const double rate = static_cast<double>(state.iterations()) / elapsed.count();
        state.counters["GB/s"] = bytes * rate / 1e9;
        state.counters["%read"] = 100 * bytes * rate / peaks_.read_bytes_per_second;
        if (operations == 0) return;
        state.counters["GFLOP/s"] = operations * rate / 1e9;
        if (unit) state.counters["%unit"] = 100 * operations * rate / unit->operations_per_second;
    }

  private:
    const Peaks& peaks_;
    std::chrono::steady_clock::time_point start_;
};

}  // namespace moestro::bench
