// Workspace: what a decoder computes a step in.
#include <memory>

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

std::shared_ptr<Workspace> make_workspace(int hidden, int heads, int kv_heads, int head_dim, int experts, int top_k,
                                          int max_rows) {
    return std::make_shared<Workspace>(layers::WorkShape{hidden, heads, kv_heads, head_dim, experts, top_k}, max_rows);
}

std::size_t nbytes(int hidden, int heads, int kv_heads, int head_dim, int experts, int top_k, std::int64_t max_rows) {
    return Workspace::bytes({hidden, heads, kv_heads, head_dim, experts, top_k}, max_rows);
}

void begin(Workspace& work, const py::object& positions, const py::object& tables, const py::object& table_begin,
           const py::object& blocks, const py::object& inv_freq, float attention_factor) {
    const auto at = input<std::int64_t>(positions, "positions", Shape::exactly({kAny}));
    const std::int64_t rows = at.size();
    const auto ids = input<std::int32_t>(tables, "tables", Shape::exactly({kAny}));
    const auto begins = input<std::int64_t>(table_begin, "table_begin", Shape::exactly({rows}));
    const auto taking = input<std::int32_t>(blocks, "blocks", Shape::exactly({rows}));
    const auto frequencies = input<float>(inv_freq, "inv_freq", Shape::ending_in({work.shape().head_dim / 2}));
    const bool per_row = frequencies.shape.size() == 2 && frequencies.shape[0] == rows;
    require(per_row || frequencies.shape.size() == 1, ErrorKind::usage, "argument inv_freq: expected shape [half] or [",
            rows, ", half], one row per position; got ", frequencies.shape.size(), " dimensions and ",
            frequencies.shape[0], " rows");
    const layers::StepPlaces places{
        {all(at), all(ids), all(begins)}, all(taking), frequencies.data, per_row, attention_factor};
    py::gil_scoped_release released;
    work.begin(places);
}

py::array_t<float> residual(const py::object& self) {
    const auto& work = self.cast<const Workspace&>();
    return py::array_t<float>({work.rows(), work.shape().hidden}, work.arrays().x, self);
}

py::array_t<std::int32_t> routes(const py::object& self) {
    const auto& work = self.cast<const Workspace&>();
    return py::array_t<std::int32_t>({work.rows(), work.routed}, work.arrays().ids, self);
}

void trace_to(Workspace& work, const RuntimeRef& runtime) {
    work.trace = runtime.slot->open()->trace();
}

}  // namespace

void bind_workspace(py::module_& module) {
    py::class_<Workspace, std::shared_ptr<Workspace>>(module, "Workspace",
                                                      "What a decoder computes a step in. One thread at a time.")
        .def(py::init(&make_workspace), py::kw_only(), "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "experts"_a,
             "top_k"_a, "max_rows"_a)
        .def("begin", &begin, "positions"_a, "tables"_a, "table_begin"_a, "blocks"_a, "inv_freq"_a,
             "attention_factor"_a)
        .def("trace_to", &trace_to, "runtime"_a)
        .def_property_readonly("x", &residual)
        .def_property_readonly("ids", &routes)
        .def_property_readonly("busy_ns", &Workspace::busy_ns)
        .def_static("nbytes", &nbytes, py::kw_only(), "hidden"_a, "heads"_a, "kv_heads"_a, "head_dim"_a, "experts"_a,
                    "top_k"_a, "max_rows"_a);
}

}  // namespace moestro::bind
