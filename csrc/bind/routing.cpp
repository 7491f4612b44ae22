#include "bind/routing.h"

#include <algorithm>

#include "bind/tensor_view.h"

namespace moestro::bind {

using namespace py::literals;

py::object offset_array(const std::vector<std::vector<std::vector<float>>>& offsets) {
    std::size_t distances = 0, experts = 0;
    for (const auto& layer : offsets) {
        distances = std::max(distances, layer.size());
        for (const auto& values : layer) experts = std::max(experts, values.size());
    }
    py::array_t<float> array({offsets.size(), distances, experts});
    std::fill_n(array.mutable_data(), array.size(), 0.0f);
    for (std::size_t layer = 0; layer < offsets.size(); ++layer)
        for (std::size_t distance = 0; distance < offsets[layer].size(); ++distance)
            std::copy(offsets[layer][distance].begin(), offsets[layer][distance].end(),
                      array.mutable_data(static_cast<py::ssize_t>(layer), static_cast<py::ssize_t>(distance), 0));
    return array;
}

std::vector<std::vector<std::vector<float>>> offset_lists(const py::object& offsets) {
    const auto view = input<float>(offsets, "offsets", Shape::exactly({kAny, kAny, kAny}));
    const std::ptrdiff_t distances = view.shape[1], experts = view.shape[2];
    std::vector<std::vector<std::vector<float>>> lists(static_cast<std::size_t>(view.shape[0]));
    const float* at = view.data;
    for (auto& layer : lists)
        for (std::ptrdiff_t distance = 0; distance < distances; ++distance, at += experts)
            layer.emplace_back(at, at + experts);
    return lists;
}

py::list prefetch_dicts(const std::vector<exec::PrefetchCounters>& counters) {
    py::list layers;
    for (const exec::PrefetchCounters& one : counters)
        layers.append(py::dict("steps"_a = one.steps, "needed"_a = one.needed, "hinted"_a = one.hinted,
                               "foreseen"_a = one.foreseen, "used_bytes"_a = one.used_bytes,
                               "late_bytes"_a = one.late_bytes, "wasted_bytes"_a = one.wasted_bytes,
                               "started"_a = one.started, "cancelled"_a = one.cancelled, "regretted"_a = one.regretted,
                               "off"_a = one.off, "times_off"_a = one.times_off));
    return layers;
}

}  // namespace moestro::bind
