#include "residency/placement.h"

#include <algorithm>
#include <numeric>
#include <vector>

namespace moestro::residency {

void fill(ExpertCache& cache, const store::ExpertTable& table, std::span<const double> frequencies) {
    std::vector<int> order(static_cast<std::size_t>(table.experts()));
    std::iota(order.begin(), order.end(), 0);
    if (!frequencies.empty())
        std::stable_sort(order.begin(), order.end(), [&](int one, int other) {
            return frequencies[static_cast<std::size_t>(one)] > frequencies[static_cast<std::size_t>(other)];
        });
    std::vector<ExpertId> evicted;
    for (const int number : order)
        if (!cache.start_prefetch(
                table.id(number), [](ExpertId) { return false; }, evicted))
            break;
    while (cache.loading() > 0) cache.wait();
}

}  // namespace moestro::residency
