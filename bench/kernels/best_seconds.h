// The shortest of several runs: what a machine can do shows when nothing else disturbs it.
#pragma once

#include <algorithm>
#include <chrono>

namespace moestro::bench {

template <class Work>
double best_seconds(const Work& work) {
    constexpr int repeats = 5;
    double best = 1e30;
    for (int i = 0; i < repeats; ++i) {
        const auto start = std::chrono::steady_clock::now();
        work();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

}  // namespace moestro::bench
