// Packed matrices: their size, packing, unpacking, and Matrix.
#include <pybind11/stl.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>

#include "base/memory.h"
#include "bind/matrix_spec.h"
#include "bind/tensor_view.h"
#include "quant/format.h"
#include "quant/pack.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

struct SourceArgument {
    View<const std::uint8_t> bytes;
    quant::Source source;
};

SourceArgument source_argument(const py::object& object, const std::string& dtype, std::int64_t rows,
                               std::int64_t cols) {
    const quant::SourceType type = quant::parse_source_type(dtype);
    const std::int32_t n = size32(rows, "rows"), k = size32(cols, "cols");
    quant::require_shape("a matrix", rows, cols);
    const auto expected = static_cast<std::int64_t>(quant::bytes(type)) * n * k;
    SourceArgument argument{input<std::uint8_t>(object, "source", Shape::exactly({expected})), {}};
    argument.source = {reinterpret_cast<const std::byte*>(argument.bytes.data), type, n, k};
    return argument;
}

View<const std::uint8_t> packed_argument(const py::object& object, const quant::MatrixSpec& spec) {
    return input<std::uint8_t>(object, "packed", Shape::exactly({static_cast<std::int64_t>(spec.bytes())}));
}

std::size_t matrix_bytes(const std::string& format, const std::string& scale, std::int64_t rows, std::int64_t cols) {
    return matrix_spec(format, scale, rows, cols).bytes();
}

std::string_view choose_scale_type(const py::object& source, const std::string& dtype, std::int64_t rows,
                                   std::int64_t cols, const std::string& format) {
    const SourceArgument argument = source_argument(source, dtype, rows, cols);
    const quant::Format parsed = quant::parse_format(format);
    py::gil_scoped_release released;
    return quant::name(quant::choose_scale_type(argument.source, parsed));
}

void pack_matrix(kernels::Compute& compute, const py::object& source, const std::string& dtype, std::int64_t rows,
                 std::int64_t cols, const std::string& format, const std::string& scale, const py::object& out) {
    const quant::MatrixSpec spec = matrix_spec(format, scale, rows, cols);
    const SourceArgument argument = source_argument(source, dtype, rows, cols);
    const auto packed = output<std::uint8_t>(out, "out", Shape::exactly({static_cast<std::int64_t>(spec.bytes())}));
    require_apart(packed, "out", argument.bytes, "source");
    py::gil_scoped_release released;
    compute.pool().parallel_for(spec.panels(), [&](std::int64_t panel, int) {
        const int begin = static_cast<int>(panel);
        quant::pack(argument.source, spec, reinterpret_cast<std::byte*>(packed.data), begin, begin + 1);
    });
}

py::array_t<float> unpack_matrix(const py::object& packed, const std::string& format, const std::string& scale,
                                 std::int64_t rows, std::int64_t cols) {
    const quant::MatrixSpec spec = matrix_spec(format, scale, rows, cols);
    const auto bytes = packed_argument(packed, spec);
    py::array_t<float> weights({spec.rows, spec.cols});
    float* destination = weights.mutable_data();
    py::gil_scoped_release released;
    quant::unpack(reinterpret_cast<const std::byte*>(bytes.data), spec, destination);
    return weights;
}

py::tuple unpack_codes(const py::object& packed, const std::string& format, const std::string& scale, std::int64_t rows,
                       std::int64_t cols) {
    const quant::MatrixSpec spec = matrix_spec(format, scale, rows, cols);
    require(quant::is_integer(spec.format), ErrorKind::usage, "argument format: expected an integer format; got ",
            format, ", which has no codes apart from its values");
    const auto bytes = packed_argument(packed, spec);
    py::array_t<std::int8_t> codes({spec.rows, spec.cols});
    py::array_t<float> scales({static_cast<std::int64_t>(spec.rows), ceil_div(spec.cols, quant::kGroup)});
    std::int8_t* codes_to = codes.mutable_data();
    float* scales_to = scales.mutable_data();
    {
        py::gil_scoped_release released;
        quant::unpack_codes(reinterpret_cast<const std::byte*>(bytes.data), spec, codes_to, scales_to);
    }
    return py::make_tuple(codes, scales);
}

struct OwnedMatrix {
    PageBuffer memory;
    std::vector<float> bias;
    kernels::Matrix matrix;
};

MatrixRef from_packed(const py::object& packed, const std::string& format, const std::string& scale, std::int64_t rows,
                      std::int64_t cols, const std::optional<py::object>& bias) {
    const quant::MatrixSpec spec = matrix_spec(format, scale, rows, cols);
    const auto bytes = packed_argument(packed, spec);
    auto owned = std::make_shared<OwnedMatrix>();
    owned->matrix = {nullptr, spec, nullptr};
    if (bias) {
        const auto view = input<float>(*bias, "bias", Shape::exactly({spec.rows}));
        owned->bias.assign(view.data, view.data + view.size());
        owned->matrix.bias = owned->bias.data();
    }
    py::gil_scoped_release released;
    owned->memory = PageBuffer(spec.bytes());
    std::memcpy(owned->memory.data(), bytes.data, spec.bytes());
    owned->matrix.data = owned->memory.data();
    return {std::shared_ptr<const kernels::Matrix>(owned, &owned->matrix)};
}

void bind_matrix(py::module_& module) {
    py::class_<MatrixRef>(module, "Matrix", "A packed weight [rows, cols] in memory that the core owns.")
        .def_static("from_packed", &from_packed, "packed"_a, "format"_a, "scale"_a, "rows"_a, "cols"_a,
                    "bias"_a = py::none())
        .def_property_readonly("rows", [](const MatrixRef& self) { return self.matrix->spec.rows; })
        .def_property_readonly("cols", [](const MatrixRef& self) { return self.matrix->spec.cols; })
        .def_property_readonly("format", [](const MatrixRef& self) { return quant::name(self.matrix->spec.format); })
        .def_property_readonly("nbytes", [](const MatrixRef& self) { return self.matrix->spec.bytes(); });
}

py::tuple format_names() {
    py::list names;
#define MOESTRO_FORMAT(name, ...) names.append(#name);
    MOESTRO_FORMATS(MOESTRO_FORMAT)
#undef MOESTRO_FORMAT
    return py::tuple(names);
}

}  // namespace

void bind_quant(py::module_& module) {
    bind_matrix(module);
    module.attr("FORMATS") = format_names();
    module.def("matrix_bytes", &matrix_bytes, "format"_a, "scale"_a, "rows"_a, "cols"_a);
    module.def("choose_scale_type", &choose_scale_type, "source"_a, "dtype"_a, "rows"_a, "cols"_a, "format"_a);
    module.def("pack_matrix", &pack_matrix, "compute"_a, "source"_a, "dtype"_a, "rows"_a, "cols"_a, "format"_a,
               "scale"_a, "out"_a);
    module.def("unpack_matrix", &unpack_matrix, "packed"_a, "format"_a, "scale"_a, "rows"_a, "cols"_a);
    module.def("unpack_codes", &unpack_codes, "packed"_a, "format"_a, "scale"_a, "rows"_a, "cols"_a);
}

}  // namespace moestro::bind
