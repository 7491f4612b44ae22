// What a decoder computes on rows: norms, sums, routing, rotary positions, embeddings.
#include <pybind11/stl.h>

#include <string>

#include "bind/tensor_view.h"
#include "kernels/ops.h"
#include "quant/format.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

void rms_norm(kernels::Compute& compute, const py::object& x, const py::object& weight, float eps,
              const py::object& out) {
    const auto rows = input<float>(x, "x", Shape::ending_in({kAny}));
    const auto scale = input<float>(weight, "weight", Shape::exactly({rows.last()}));
    const auto y = output<float>(out, "out", Shape::exactly(rows.shape));
    if (y.data != rows.data) require_apart(y, "out", rows, "x");
    require_apart(y, "out", scale, "weight");
    const int count = size32(rows.rows(), "x"), n = size32(rows.last(), "x");
    py::gil_scoped_release released;
    kernels::rms_norm(compute, rows.data, scale.data, eps, count, n, y.data);
}

void add(kernels::Compute& compute, const py::object& x, const py::object& y) {
    const auto sum = output<float>(x, "x", Shape::ending_in({kAny}));
    const auto addend = input<float>(y, "y", Shape::exactly(sum.shape));
    if (sum.data != addend.data) require_apart(sum, "x", addend, "y");
    py::gil_scoped_release released;
    kernels::add(compute, sum.data, addend.data, sum.size());
}

py::tuple route_softmax_topk(kernels::Compute& compute, const py::object& logits, int top_k, bool normalise) {
    const auto rows = input<float>(logits, "logits", Shape::exactly({kAny, kAny}));
    require(top_k >= 1 && top_k <= rows.last(), ErrorKind::usage, "argument top_k: expected 1 to ", rows.last(),
            ", the number of experts; got ", top_k);
    const int count = size32(rows.rows(), "logits"), experts = size32(rows.last(), "logits");
    py::array_t<std::int32_t> ids({count, top_k});
    py::array_t<float> weights({count, top_k});
    std::int32_t* ids_to = ids.mutable_data();
    float* weights_to = weights.mutable_data();
    {
        py::gil_scoped_release released;
        const kernels::RouterRule rule{.top_k = top_k, .normalise = normalise};
        kernels::route(compute, rule, rows.data, count, experts, ids_to, weights_to);
    }
    return py::make_tuple(ids, weights);
}

py::tuple rope_table(const py::object& positions, const py::object& inv_freq, float attention_factor) {
    const auto at = input<std::int64_t>(positions, "positions", Shape::exactly({kAny}));
    const auto frequencies = input<float>(inv_freq, "inv_freq", Shape::ending_in({kAny}));
    const bool per_row = frequencies.shape.size() == 2 && frequencies.shape[0] == at.size();
    require(per_row || frequencies.shape.size() == 1, ErrorKind::usage, "argument inv_freq: expected shape [half] or [",
            at.size(), ", half], one row per position; got ", frequencies.shape.size(), " dimensions and ",
            frequencies.shape[0], " rows");
    const int rows = size32(at.size(), "positions"), half = size32(frequencies.last(), "inv_freq");
    py::array_t<float> cos({rows, half}), sin({rows, half});
    float *cos_to = cos.mutable_data(), *sin_to = sin.mutable_data();
    {
        py::gil_scoped_release released;
        kernels::rope_table(at.data, frequencies.data, per_row, attention_factor, rows, half, cos_to, sin_to);
    }
    return py::make_tuple(cos, sin);
}

void rope(kernels::Compute& compute, const py::object& x, const py::object& cos, const py::object& sin) {
    const auto heads = output<float>(x, "x", Shape::exactly({kAny, kAny, kAny}));
    const std::int64_t rows = heads.shape[0], head_dim = heads.last();
    require(head_dim % 2 == 0, ErrorKind::usage, "argument x: expected an even head_dim; got ", head_dim);
    const auto cosines = input<float>(cos, "cos", Shape::exactly({rows, head_dim / 2}));
    const auto sines = input<float>(sin, "sin", Shape::exactly({rows, head_dim / 2}));
    require_apart(heads, "x", cosines, "cos");
    require_apart(heads, "x", sines, "sin");
    const int count = size32(rows, "x"), head_count = size32(heads.shape[1], "x"), width = size32(head_dim, "x");
    py::gil_scoped_release released;
    kernels::rope(compute, {.x = heads.data, .rows = count, .heads = head_count, .head_dim = width, .half = width / 2},
                  cosines.data, sines.data);
}

py::array_t<float> widen(const py::object& source, const std::string& dtype, std::int64_t count) {
    const quant::SourceType type = quant::parse_source_type(dtype);
    const auto bytes = static_cast<std::int64_t>(quant::bytes(type)) * size32(count, "count");
    const auto elements = input<std::uint8_t>(source, "source", Shape::exactly({bytes}));
    py::array_t<float> widened(count);
    float* destination = widened.mutable_data();
    py::gil_scoped_release released;
    kernels::widen(reinterpret_cast<const std::byte*>(elements.data), type, count, destination);
    return widened;
}

}  // namespace

void bind_ops(py::module_& module) {
    module.def("rms_norm", &rms_norm, "compute"_a, "x"_a, "weight"_a, "eps"_a, "out"_a);
    module.def("add", &add, "compute"_a, "x"_a, "y"_a);
    module.def("route_softmax_topk", &route_softmax_topk, "compute"_a, "logits"_a, "top_k"_a, "normalise"_a);
    module.def("rope_table", &rope_table, "positions"_a, "inv_freq"_a, "attention_factor"_a);
    module.def("rope", &rope, "compute"_a, "x"_a, "cos"_a, "sin"_a);
    module.def("widen", &widen, "source"_a, "dtype"_a, "count"_a);
}

}  // namespace moestro::bind
