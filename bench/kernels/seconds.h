// Seconds of several runs. The shortest shows what an arithmetic unit can do when nothing disturbs it; the median shows
// what a shared memory gives in general, as the runs compared with it get it.
#pragma once

#include <algorithm>
#include <array>
#include <chrono>

namespace moestro::bench {

// Shortest first.
template <class Work>
std::array<double, 5> sorted_seconds(const Work& work) {
    std::array<double, 5> runs;
    for (double& seconds : runs) {
        const auto start = std::chrono::steady_clock::now();
        work();
        seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    }
    std::sort(runs.begin(), runs.end());
    return runs;
}

template <class Work>
double best_seconds(const Work& work) {
    return sorted_seconds(work).front();
}

template <class Work>
double median_seconds(const Work& work) {
    const auto runs = sorted_seconds(work);
    return runs[runs.size() / 2];
}

}  // namespace moestro::bench
