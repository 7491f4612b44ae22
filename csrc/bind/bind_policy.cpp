// What policies are made with, and the planners: pure decisions, for runs and for looking at.
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "bind/tensor_view.h"
#include "policy/planner.h"
#include "policy/predictor.h"

namespace moestro::bind {
namespace {

using namespace py::literals;
using Pair = std::pair<double, double>;

policy::LaneCosts make_costs(const Pair& cpu, double cpu_start, const std::optional<Pair>& device, double link,
                             double ssd, double ssd_start) {
    policy::LaneCosts costs{.cpu = {cpu.first, cpu.second},
                            .cpu_start = cpu_start,
                            .device = {},
                            .link = link,
                            .ssd = ssd,
                            .ssd_start = ssd_start,
                            .has_device = device.has_value()};
    if (device) costs.device = {device->first, device->second};
    return costs;
}

std::vector<float> floats(const py::dict& arrays, const char* name) {
    require(arrays.contains(name), ErrorKind::usage, "argument path: \"", name, "\" is missing");
    const auto view = input<float>(arrays[name], name, Shape::ending_in({kAny}));
    return {view.data, view.data + view.size()};
}

policy::PredictorSettings make_settings(std::vector<int> top_k, const std::optional<py::object>& tokens,
                                        const std::optional<py::object>& chosen, const std::optional<py::dict>& path) {
    policy::PredictorSettings settings;
    settings.top_k = std::move(top_k);
    if (chosen) {
        const auto all = input<std::int32_t>(*chosen, "chosen", Shape::exactly({kAny, kAny, kAny}));
        settings.trace.top_k = size32(all.shape[2], "chosen");
        settings.trace.chosen.assign(all.data, all.data + all.size());
        settings.trace.tokens.assign(static_cast<std::size_t>(all.shape[1]), -1);
        if (tokens) {
            const auto ids = input<std::int32_t>(*tokens, "tokens", Shape::exactly({all.shape[1]}));
            settings.trace.tokens.assign(ids.data, ids.data + ids.size());
        }
    }
    if (path) {
        const auto embedding = input<float>((*path)["embedding"], "embedding", Shape::exactly({kAny, kAny}));
        settings.path = {.vocabulary = size32(embedding.shape[0], "embedding"),
                         .width = size32(embedding.shape[1], "embedding"),
                         .embedding = floats(*path, "embedding"),
                         .hidden = floats(*path, "hidden"),
                         .hidden_bias = floats(*path, "hidden_bias"),
                         .output = floats(*path, "output"),
                         .output_bias = floats(*path, "output_bias"),
                         .correction = floats(*path, "correction")};
    }
    return settings;
}

py::tuple plan_layer(const std::string& planner, const policy::LaneCosts& costs,
                     const std::vector<std::tuple<int, int, std::string>>& work) {
    std::vector<policy::WorkItem> items;
    for (const auto& [expert, rows, where] : work) {
        require(where == "ssd" || where == "host" || where == "device", ErrorKind::usage,
                "argument work: a record is at ssd, host or device; got \"", where, "\"");
        require(rows >= 1 && (where != "device" || costs.has_device), ErrorKind::usage,
                "argument work: expected at least one row, and a device where records are on one");
        items.push_back({expert, rows,
                         where == "ssd"    ? policy::Where::ssd
                         : where == "host" ? policy::Where::host
                                           : policy::Where::device});
    }
    policy::LayerPlan plan;
    policy::make_planner(planner)->plan({items, costs, {}}, plan);
    py::list operations;
    for (const policy::Operation& one : plan.operations)
        operations.append(py::make_tuple(one.expert, policy::name_of(one.lane), one.begin, one.end));
    return py::make_tuple(operations, plan.makespan, policy::table(plan));
}

template <class Names>
py::tuple tuple_of(const Names& names) {
    py::list all;
    for (const std::string_view name : names) all.append(name);
    return py::tuple(all);
}

}  // namespace

void bind_policy(py::module_& module) {
    py::class_<policy::LaneCosts>(module, "LaneCosts", "What the lanes of a machine take for one expert.")
        .def(py::init(&make_costs), py::kw_only(), "cpu"_a = Pair(), "cpu_start"_a = 0.0, "device"_a = py::none(),
             "link"_a = 0.0, "ssd"_a = 0.0, "ssd_start"_a = 0.0);
    py::class_<policy::PredictorSettings>(module, "PredictorSettings", "What predictors are made of.")
        .def(py::init(&make_settings), py::kw_only(), "top_k"_a = std::vector<int>(), "tokens"_a = py::none(),
             "chosen"_a = py::none(), "path"_a = py::none());
    module.def("plan_layer", &plan_layer, "planner"_a, "costs"_a, "work"_a);
    module.attr("POLICIES") = tuple_of(policy::eviction_names());
    module.attr("PREDICTORS") = tuple_of(policy::predictor_names());
    module.attr("PLANNERS") = tuple_of(policy::planner_names());
}

}  // namespace moestro::bind
