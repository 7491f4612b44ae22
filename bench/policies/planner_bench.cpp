// What it takes to plan one layer of 8, 64 or 256 experts.
//   decode   a row each, all but eight (of eight: four) on the device, half of those in host memory, half on the SSD
//   prefill  1 to 64 rows, half of them on the device, half in host memory
//   ssd      the same, but half of what is not on the device is on the SSD
#include <benchmark/benchmark.h>

#include <algorithm>
#include <string>
#include <vector>

#include "policy/planner.h"

namespace {

using namespace moestro::policy;

std::vector<WorkItem> decode(int experts) {
    const int missing = std::min(8, experts / 2);
    std::vector<WorkItem> items;
    for (int i = 0; i < experts; ++i)
        items.push_back({i, 1, i >= missing ? Where::device : i % 2 ? Where::host : Where::ssd});
    return items;
}

std::vector<WorkItem> prefill(int experts, bool with_ssd) {
    std::vector<WorkItem> items;
    for (int i = 0; i < experts; ++i) {
        const Where lacking = with_ssd && i % 4 == 0 ? Where::ssd : Where::host;
        items.push_back({i, 1 + i * 37 % 64, i % 2 ? Where::device : lacking});
    }
    return items;
}

// Of an RTX A6000 beside a Xeon with an NVMe disk.
LaneCosts costs() {
    LaneCosts made;
    made.cpu = {50e3, 150e3};
    made.cpu_start = 100e3;
    made.device = {100e3, 1e3};
    made.link = 300e3;
    made.ssd = 2e6;
    made.has_device = true;
    return made;
}

void plan(benchmark::State& state, std::string_view name, const std::vector<WorkItem>& items) {
    const auto planner = make_planner(name);
    const LayerWork work{items, costs(), {}};
    LayerPlan made;
    for (auto _ : state) {
        planner->plan(work, made);
        benchmark::DoNotOptimize(made.operations.data());
    }
    state.counters["makespan_us"] = made.makespan / 1e3;
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    for (const std::string_view name : planner_names())
        for (const int experts : {8, 64, 256}) {
            const auto add = [&](const char* kind, const std::vector<WorkItem>& items) {
                const std::string title = std::string(name) + "/" + kind + "/" + std::to_string(experts);
                benchmark::RegisterBenchmark(title.c_str(), [name, items](benchmark::State& state) {
                    plan(state, name, items);
                })->Unit(benchmark::kMicrosecond);
            };
            add("decode", decode(experts));
            add("prefill", prefill(experts, false));
            add("ssd", prefill(experts, true));
        }
    benchmark::RunSpecifiedBenchmarks();
}
