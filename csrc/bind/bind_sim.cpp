// RoutingRecord and its replays.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bind/bind.h"
#include "bind/routing.h"
#include "bind/tensor_view.h"
#include "sim/replay.h"

namespace moestro::bind {
namespace {

using namespace py::literals;
using policy::RoutingRecord;
using policy::ScoredExpert;

struct Scores {
    View<const std::int32_t> ids;
    View<const float> scores;
};

void fill_scores(std::vector<ScoredExpert>& into, const std::int32_t* ids, const float* scores, std::int64_t count) {
    into.reserve(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) into.push_back({ids[i], scores[i]});
}

RoutingRecord make_record(const py::object& layers, const py::object& experts, const py::object& step_rows,
                          const py::object& step_bytes, const py::object& tokens, const py::object& accepted,
                          const py::object& chosen, const py::object& best_ids, const py::object& best_scores,
                          const std::optional<py::object>& ahead_ids, const std::optional<py::object>& ahead_scores) {
    const auto numbers = input<std::int32_t>(layers, "layers", Shape::exactly({kAny}));
    const std::int64_t count = numbers.size();
    const auto sizes = input<std::int32_t>(experts, "experts", Shape::exactly({count}));
    const auto rows = input<std::int32_t>(step_rows, "step_rows", Shape::exactly({kAny}));
    const auto bytes = input<std::int64_t>(step_bytes, "step_bytes", Shape::exactly({rows.size()}));
    const auto ids = input<std::int32_t>(tokens, "tokens", Shape::exactly({kAny}));
    const auto flags = input<std::uint8_t>(accepted, "accepted", Shape::exactly({ids.size()}));
    const auto used = input<std::int32_t>(chosen, "chosen", Shape::exactly({count, ids.size(), kAny}));
    const auto best = input<std::int32_t>(best_ids, "best_ids", Shape::exactly({count, ids.size(), kAny}));
    const auto scores = input<float>(best_scores, "best_scores", Shape::exactly(best.shape));
    std::optional<Scores> ahead;
    if (ahead_ids) {
        require(ahead_scores.has_value(), ErrorKind::usage, "argument ahead_scores: expected with ahead_ids");
        ahead = {input<std::int32_t>(*ahead_ids, "ahead_ids", Shape::exactly({count, kAny, ids.size(), best.last()})),
                 {}};
        ahead->scores = input<float>(*ahead_scores, "ahead_scores", Shape::exactly(ahead->ids.shape));
    }
    RoutingRecord record;
    const std::int64_t chosen_size = ids.size() * used.last(), best_size = ids.size() * best.last();
    for (std::int64_t i = 0; i < count; ++i) {
        RoutingRecord::Layer& layer = record.layers.emplace_back();
        layer.layer = numbers.data[i];
        layer.experts = sizes.data[i];
        layer.top_k = size32(used.last(), "chosen");
        layer.kept = size32(best.last(), "best_ids");
        layer.chosen.assign(used.data + i * chosen_size, used.data + (i + 1) * chosen_size);
        fill_scores(layer.best, best.data + i * best_size, scores.data + i * best_size, best_size);
        const std::int64_t distances = ahead ? std::min(ahead->ids.shape[1], i) : 0;
        for (std::int64_t distance = 0; distance < distances; ++distance) {
            const std::int64_t at = (i * ahead->ids.shape[1] + distance) * best_size;
            fill_scores(layer.ahead.emplace_back(), ahead->ids.data + at, ahead->scores.data + at, best_size);
        }
    }
    for (std::int64_t i = 0; i < rows.size(); ++i)
        record.steps.push_back({rows.data[i], static_cast<std::size_t>(bytes.data[i])});
    record.tokens.assign(ids.data, ids.data + ids.size());
    record.accepted.assign(flags.data, flags.data + flags.size());
    return record;
}

template <class T, class Values>
py::array_t<T> array_1d(const Values& values) {
    py::array_t<T> array(static_cast<py::ssize_t>(values.size()));
    std::copy(values.begin(), values.end(), array.mutable_data());
    return array;
}

void split_scores(std::span<const ScoredExpert> from, std::int32_t* ids, float* scores) {
    for (const ScoredExpert& one : from) {
        *ids++ = one.expert;
        *scores++ = one.score;
    }
}

// The arrays that make_record takes, and step_costs [steps * 7]: began, ended, compute, stall, arrival, read
// (nanoseconds), bytes read. Throws Error(usage) where layers keep different numbers of experts.
py::dict arrays(const RoutingRecord& record) {
    const std::size_t count = record.layers.size(), rows = record.tokens.size();
    const std::size_t top_k = count == 0 ? 0 : static_cast<std::size_t>(record.layers.front().top_k);
    const std::size_t kept = count == 0 ? 0 : static_cast<std::size_t>(record.layers.front().kept);
    std::vector<std::int32_t> layers, experts, step_rows;
    std::vector<std::int64_t> step_bytes, step_costs;
    std::size_t distances = 0;
    for (const RoutingRecord::Layer& layer : record.layers) {
        layers.push_back(layer.layer);
        experts.push_back(layer.experts);
        distances = std::max(distances, layer.ahead.size());
        require(static_cast<std::size_t>(layer.top_k) == top_k && static_cast<std::size_t>(layer.kept) == kept,
                ErrorKind::usage, "layer ", layer.layer, " chooses ", layer.top_k,
                " experts, others do not: such records have no file format");
    }
    for (const RoutingRecord::Step& step : record.steps) {
        step_rows.push_back(step.rows);
        step_bytes.push_back(static_cast<std::int64_t>(step.cache_bytes));
        for (const std::int64_t value : {step.began, step.ended, step.compute, step.stall, step.arrival, step.read,
                                         static_cast<std::int64_t>(step.read_bytes)})
            step_costs.push_back(value);
    }
    py::array_t<std::int32_t> chosen({count, rows, top_k}), best_ids({count, rows, kept}),
        ahead_ids({count, distances, rows, kept});
    py::array_t<float> best_scores({count, rows, kept}), ahead_scores({count, distances, rows, kept});
    std::fill_n(ahead_ids.mutable_data(), ahead_ids.size(), -1);
    std::fill_n(ahead_scores.mutable_data(), ahead_scores.size(), 0.0f);
    for (std::size_t i = 0; i < count; ++i) {
        const RoutingRecord::Layer& layer = record.layers[i];
        std::copy(layer.chosen.begin(), layer.chosen.end(), chosen.mutable_data() + i * rows * top_k);
        split_scores(layer.best, best_ids.mutable_data() + i * rows * kept,
                     best_scores.mutable_data() + i * rows * kept);
        for (std::size_t distance = 0; distance < layer.ahead.size(); ++distance) {
            const std::size_t at = (i * distances + distance) * rows * kept;
            split_scores(layer.ahead[distance], ahead_ids.mutable_data() + at, ahead_scores.mutable_data() + at);
        }
    }
    return py::dict(
        "layers"_a = array_1d<std::int32_t>(layers), "experts"_a = array_1d<std::int32_t>(experts),
        "step_rows"_a = array_1d<std::int32_t>(step_rows), "step_bytes"_a = array_1d<std::int64_t>(step_bytes),
        "step_costs"_a = array_1d<std::int64_t>(step_costs), "tokens"_a = array_1d<std::int32_t>(record.tokens),
        "accepted"_a = array_1d<std::uint8_t>(record.accepted), "chosen"_a = chosen, "best_ids"_a = best_ids,
        "best_scores"_a = best_scores, "ahead_ids"_a = ahead_ids, "ahead_scores"_a = ahead_scores);
}

using Pair = std::pair<double, double>;

py::dict replay(const RoutingRecord& record, const std::vector<std::size_t>& record_bytes,
                const std::vector<policy::LaneCosts>& costs, const Pair& layer, const Pair& step,
                std::optional<std::size_t> cache_bytes, std::optional<int> max_slots, const std::string& policy,
                std::vector<double> frequencies, const std::string& prefetch,
                const policy::PredictorSettings* predictor, const std::string& planner, int first_step,
                std::optional<std::size_t> host_bytes, const std::string& copies) {
    sim::ReplayResult result;
    {
        py::gil_scoped_release released;
        result = sim::replay(record, {.record_bytes = record_bytes,
                                      .costs = costs,
                                      .layer = {layer.first, layer.second},
                                      .step = {step.first, step.second},
                                      .cache_bytes = cache_bytes,
                                      .max_slots = max_slots,
                                      .host_bytes = host_bytes,
                                      .copies = residency::parse_copies(copies),
                                      .policy = policy,
                                      .frequencies = std::move(frequencies),
                                      .prefetch = prefetch,
                                      .predictor = predictor ? *predictor : policy::PredictorSettings(),
                                      .planner = planner,
                                      .first_step = first_step});
    }
    std::vector<std::int64_t> hits, misses, joined;
    for (const sim::ReplayResult::Layer& one : result.layers) {
        hits.push_back(static_cast<std::int64_t>(one.hits));
        misses.push_back(static_cast<std::int64_t>(one.misses));
        joined.push_back(static_cast<std::int64_t>(one.joined));
    }
    return py::dict("hits"_a = array_1d<std::int64_t>(hits), "misses"_a = array_1d<std::int64_t>(misses),
                    "joined"_a = array_1d<std::int64_t>(joined), "evictions"_a = result.evictions,
                    "loads"_a = result.loads, "nbytes"_a = result.bytes, "read_nbytes"_a = result.read_bytes,
                    "steps"_a = result.steps, "rows"_a = result.rows, "time_ns"_a = result.time,
                    "cpu_busy_ns"_a = result.cpu_busy, "device_busy_ns"_a = result.device_busy,
                    "link_busy_ns"_a = result.link_busy, "stall_ns"_a = result.stall,
                    "prefetch"_a = prefetch_dicts(result.prefetch));
}

std::vector<std::int64_t> belady(const RoutingRecord& record, const std::vector<int>& slots, int first_step) {
    py::gil_scoped_release released;
    return sim::belady_misses(record, slots, first_step);
}

}  // namespace

void bind_sim(py::module_& module) {
    py::class_<RoutingRecord>(module, "RoutingRecord", "What routers chose and thought, token by token.")
        .def(py::init(&make_record), py::kw_only(), "layers"_a, "experts"_a, "step_rows"_a, "step_bytes"_a, "tokens"_a,
             "accepted"_a, "chosen"_a, "best_ids"_a, "best_scores"_a, "ahead_ids"_a = py::none(),
             "ahead_scores"_a = py::none())
        .def_property_readonly("rows", &RoutingRecord::rows)
        .def("arrays", &arrays);
    module.def("replay", &replay, "record"_a, py::kw_only(), "record_bytes"_a, "costs"_a, "layer"_a = Pair(),
               "step"_a = Pair(), "cache_bytes"_a = py::none(), "max_slots"_a = py::none(), "policy"_a = "lru",
               "frequencies"_a = std::vector<double>(), "prefetch"_a = "none", "predictor"_a = py::none(),
               "planner"_a = "hybrid", "first_step"_a = 0, "host_bytes"_a = py::none(), "copies"_a = "inclusive");
    module.def("belady_misses", &belady, "record"_a, "slots"_a, "first_step"_a = 0);
}

}  // namespace moestro::bind
