// Linears and gated MLPs on rows, and how rows are quantised for them.
#include <pybind11/stl.h>

#include <numeric>
#include <string>
#include <vector>

#include "bind/matrix_spec.h"
#include "bind/tensor_view.h"
#include "kernels/ops.h"
#include "quant/format.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

struct LinearArguments {
    std::vector<kernels::LinearJob> jobs;
    std::vector<View<float>> outs;  // keep the memory
    bool integer = false;
};

LinearArguments linear_arguments(const View<const float>& x, const py::sequence& weights, const py::sequence& outs) {
    require(weights.size() == outs.size(), ErrorKind::usage,
            "arguments weights and outs: expected as many of one as of "
            "the other; got ",
            weights.size(), " and ", outs.size());
    LinearArguments arguments;
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const std::string weight_name = text("weights[", i, "]"), out_name = text("outs[", i, "]");
        const py::object weight = weights[i], out = outs[i];
        if (!py::isinstance<MatrixRef>(weight))
            fail(ErrorKind::usage, "argument ", weight_name, ": expected a Matrix; got ",
                 std::string(py::str(py::type::handle_of(weight).attr("__name__"))));
        const kernels::Matrix& matrix = py::cast<const MatrixRef&>(weight).here(weight_name.c_str());
        require_matrix(matrix, weight_name.c_str(), kAny, x.last());
        arguments.outs.push_back(
            output<float>(out, out_name.c_str(), Shape::exactly({x.shape[0], matrix.spec.rows}), Layout::row_stride));
        const View<float>& y = arguments.outs.back();
        require_apart(y, out_name.c_str(), x, "x");
        arguments.jobs.push_back({matrix, y.data, y.row_stride});
        arguments.integer = arguments.integer || quant::is_integer(matrix.spec.format);
    }
    return arguments;
}

void linear(kernels::Compute& compute, const py::object& x, const py::sequence& weights, const py::sequence& outs) {
    const auto rows = input<float>(x, "x", Shape::exactly({kAny, kAny}));
    const LinearArguments arguments = linear_arguments(rows, weights, outs);
    const int count = size32(rows.shape[0], "x"), cols = size32(rows.last(), "x");
    py::gil_scoped_release released;
    kernels::Activations activations;
    activations.prepare(compute, rows.data, count, cols, arguments.integer);
    kernels::linear(compute, activations, arguments.jobs);
}

void gated_mlp(kernels::Compute& compute, const py::object& x, const MatrixRef& gate, const MatrixRef& up,
               const MatrixRef& down, const py::object& out) {
    const auto rows = input<float>(x, "x", Shape::exactly({kAny, kAny}));
    const auto y = output<float>(out, "out", Shape::exactly({rows.shape[0], rows.last()}));
    require_apart(y, "out", rows, "x");
    const kernels::Mlp mlp{gate.here("gate"), up.here("up"), down.here("down")};
    const std::int64_t intermediate = mlp.gate.spec.rows;
    require_matrix(mlp.gate, "gate", kAny, rows.last());
    require_matrix(mlp.up, "up", intermediate, rows.last());
    require_matrix(mlp.down, "down", rows.last(), intermediate);
    const int count = size32(rows.shape[0], "x"), cols = size32(rows.last(), "x");
    const bool integer = quant::is_integer(mlp.gate.spec.format) || quant::is_integer(mlp.up.spec.format);
    py::gil_scoped_release released;
    std::vector<std::int32_t> every_row(static_cast<std::size_t>(count));
    std::iota(every_row.begin(), every_row.end(), 0);
    kernels::Activations activations;
    activations.prepare(compute, rows.data, count, cols, integer);
    kernels::MlpScratch scratch;
    const kernels::ExpertJob job{mlp, every_row, y.data};
    kernels::experts(compute, activations, {&job, 1}, scratch);
}

py::tuple quantize_activations(kernels::Compute& compute, const py::object& x) {
    const auto rows = input<float>(x, "x", Shape::exactly({kAny, kAny}));
    const int count = size32(rows.shape[0], "x"), cols = size32(rows.last(), "x");
    kernels::Activations activations;
    {
        py::gil_scoped_release released;
        activations.prepare(compute, rows.data, count, cols, true);
    }
    const py::ssize_t groups = activations.groups;
    return py::make_tuple(
        py::array_t<std::int8_t>({py::ssize_t{count}, groups * quant::kGroup}, activations.codes.data()),
        py::array_t<float>({py::ssize_t{count}, groups}, activations.scales.data()));
}

std::size_t activation_bytes(std::int64_t rows, std::int64_t cols, bool integer, const std::string& math) {
    return kernels::Activations::bytes(size32(rows, "rows"), size32(cols, "cols"), integer, kernels::parse_math(math));
}

std::size_t mlp_scratch_bytes(std::int64_t rows, std::int64_t intermediate, bool integer, const std::string& math) {
    return kernels::MlpScratch::bytes(size32(rows, "rows"), size32(intermediate, "intermediate"), integer,
                                      kernels::parse_math(math));
}

}  // namespace

void bind_linear(py::module_& module) {
    module.def("linear", &linear, "compute"_a, "x"_a, "weights"_a, "outs"_a);
    module.def("gated_mlp", &gated_mlp, "compute"_a, "x"_a, "gate"_a, "up"_a, "down"_a, "out"_a);
    module.def("activation_bytes", &activation_bytes, "rows"_a, "cols"_a, "integer"_a, "math"_a = "exact");
    module.def("mlp_scratch_bytes", &mlp_scratch_bytes, "rows"_a, "intermediate"_a, "integer"_a, "math"_a = "exact");
    module.def("quantize_activations", &quantize_activations, "compute"_a, "x"_a);
}

}  // namespace moestro::bind
