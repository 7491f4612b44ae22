// Workspace: what a decoder computes a step in.
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bind/runtime_ref.h"
#include "bind/tensor_view.h"
#include "layers/workspace.h"

namespace moestro::bind {
namespace {

using namespace py::literals;
using layers::Workspace;

template <class T>
std::span<const T> all(const View<const T>& view) {
    return {view.data, static_cast<std::size_t>(view.size())};
}

// Sizes by keyword, as WorkShape names them.
layers::WorkShape shape_of(const py::kwargs& sizes) {
    layers::WorkShape shape;
    std::vector<std::string> missing{"hidden", "heads", "kv_heads", "head_dim", "experts", "top_k"};
    const std::map<std::string, int*> numbers{{"hidden", &shape.hidden},       {"heads", &shape.heads},
                                              {"kv_heads", &shape.kv_heads},   {"head_dim", &shape.head_dim},
                                              {"experts", &shape.experts},     {"top_k", &shape.top_k},
                                              {"value_dim", &shape.value_dim}, {"wide", &shape.wide},
                                              {"narrow", &shape.narrow},       {"by_head", &shape.by_head}};
    const std::map<std::string, bool*> flags{{"shared", &shape.shared},
                                             {"weighed", &shape.weighed},
                                             {"pre_gated", &shape.pre_gated},
                                             {"query_factors", &shape.query_factors}};
    for (const auto& [key, value] : sizes) {
        const auto name = key.cast<std::string>();
        std::erase(missing, name);
        try {
            if (const auto number = numbers.find(name); number != numbers.end())
                *number->second = value.cast<int>();
            else if (const auto flag = flags.find(name); flag != flags.end())
                *flag->second = value.cast<bool>();
            else if (name == "rotary_halves")
                shape.rotary_halves = value.cast<std::vector<int>>();
            else
                fail(ErrorKind::usage, "Workspace: there is no size ", name);
        } catch (const py::cast_error&) {
            fail(ErrorKind::usage, "Workspace: argument ", name, ": expected a ",
                 flags.contains(name)      ? "flag"
                 : name == "rotary_halves" ? "list of numbers"
                                           : "number",
                 "; got ", py::repr(value).cast<std::string>());
        }
    }
    require(missing.empty(), ErrorKind::usage, "Workspace: argument ", missing.empty() ? "" : missing.front(),
            " is missing");
    return shape;
}

// Its keyword "runtime" says who computes in it.
std::shared_ptr<Workspace> make_workspace(int max_rows, const RuntimeRef* runtime, const py::kwargs& sizes) {
    std::shared_ptr<kernels::Accelerator> accelerator;
    if (runtime) accelerator = runtime->slot->open()->accelerator();
    return std::make_shared<Workspace>(shape_of(sizes), max_rows, std::move(accelerator));
}

std::size_t nbytes_there(std::int64_t max_rows, std::int64_t blocks, const py::kwargs& sizes) {
    return Workspace::bytes_there(shape_of(sizes), max_rows, blocks);
}
std::size_t nbytes_beside(std::int64_t max_rows, const py::kwargs& sizes) {
    return Workspace::bytes_beside(shape_of(sizes), max_rows);
}

std::size_t nbytes(std::int64_t max_rows, const py::kwargs& sizes) {
    return Workspace::bytes(shape_of(sizes), max_rows);
}

// One rotary embedding's inv_freq and attention_factor.
using RotaryTuple = std::tuple<py::object, float>;

void begin(Workspace& work, const py::object& positions, const py::object& tables, const py::object& table_begin,
           const py::object& blocks, const std::vector<RotaryTuple>& rotary,
           const std::optional<py::object>& query_factors) {
    const auto at = input<std::int64_t>(positions, "positions", Shape::exactly({kAny}));
    const std::int64_t rows = at.size();
    const auto ids = input<std::int32_t>(tables, "tables", Shape::exactly({kAny}));
    const auto begins = input<std::int64_t>(table_begin, "table_begin", Shape::exactly({rows}));
    const auto taking = input<std::int32_t>(blocks, "blocks", Shape::exactly({rows}));
    require(static_cast<int>(rotary.size()) == work.rotary_tables(), ErrorKind::usage, "argument rotary: expected ",
            work.rotary_tables(), " pairs of frequencies and factor; got ", rotary.size());
    std::vector<View<const float>> views;
    std::vector<layers::StepPlaces::Rotary> given;
    for (const auto& [inv_freq, factor] : rotary) {
        const int half = work.rotary(static_cast<int>(given.size())).half;
        views.push_back(input<float>(inv_freq, "inv_freq", Shape::ending_in({half})));
        const View<const float>& view = views.back();
        const bool per_row = view.shape.size() == 2 && view.shape[0] == rows;
        require(per_row || view.shape.size() == 1, ErrorKind::usage, "argument inv_freq: expected shape [", half,
                "] or [", rows, ", ", half, "], one row per position; got ", view.shape.size(), " dimensions and ",
                view.shape[0], " rows");
        given.push_back({view.data, per_row, factor});
    }
    std::optional<View<const float>> factors;
    if (query_factors) factors = input<float>(*query_factors, "query_factors", Shape::exactly({rows}));
    require(factors.has_value() || !work.shape().query_factors, ErrorKind::usage,
            "argument query_factors: this workspace needs one per row");
    const layers::StepPlaces places{
        {all(at), all(ids), all(begins)}, all(taking), given, factors ? factors->data : nullptr};
    py::gil_scoped_release released;
    work.begin(places);
}

py::array_t<float> residual(const py::object& self) {
    const auto& work = self.cast<const Workspace&>();
    return py::array_t<float>({work.rows(), work.shape().hidden}, work.host().x, self);
}

py::array_t<std::int32_t> routes(const py::object& self) {
    const auto& work = self.cast<const Workspace&>();
    return py::array_t<std::int32_t>({work.rows(), work.routed}, work.host().ids, self);
}

void trace_to(Workspace& work, const RuntimeRef& runtime) {
    work.trace = runtime.slot->open()->trace();
}

}  // namespace

void bind_workspace(py::module_& module) {
    py::class_<Workspace, std::shared_ptr<Workspace>>(module, "Workspace",
                                                      "What a decoder computes a step in. One thread at a time.")
        .def(py::init(&make_workspace), py::kw_only(), "max_rows"_a, "runtime"_a = nullptr)
        .def("put_x", &Workspace::put_x)
        .def("reserve", &Workspace::reserve, "logits"_a, "blocks"_a)
        .def("begin", &begin, "positions"_a, "tables"_a, "table_begin"_a, "blocks"_a, "rotary"_a,
             "query_factors"_a = py::none())
        .def("trace_to", &trace_to, "runtime"_a)
        .def_property_readonly("x", &residual)
        .def_property_readonly("ids", &routes)
        .def_property_readonly("busy_ns", &Workspace::busy_ns)
        .def_static("nbytes", &nbytes, py::kw_only(), "max_rows"_a)
        .def_static("nbytes_there", &nbytes_there, py::kw_only(), "max_rows"_a, "blocks"_a)
        .def_static("nbytes_beside", &nbytes_beside, py::kw_only(), "max_rows"_a);
}

}  // namespace moestro::bind
