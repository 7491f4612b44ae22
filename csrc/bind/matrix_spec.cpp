#include "bind/matrix_spec.h"

#include "base/error.h"
#include "bind/tensor_view.h"

namespace moestro::bind {

quant::MatrixSpec matrix_spec(const std::string& format, const std::string& scale, std::int64_t rows,
                              std::int64_t cols) {
    const quant::MatrixSpec spec{size32(rows, "rows"), size32(cols, "cols"), quant::parse_format(format),
                                 quant::parse_scale_type(scale)};
    quant::require_shape("a matrix", rows, cols);
    const bool scaled = spec.scale != quant::ScaleType::none;
    require(scaled == quant::is_integer(spec.format), ErrorKind::usage, "argument scale: format ", format,
            scaled ? " has no scales, so expected 'none'" : " needs scales: expected 'f16', 'bf16' or 'f32'", "; got '",
            scale, "'");
    return spec;
}

void require_matrix(const kernels::Matrix& matrix, const char* argument, std::int64_t rows, std::int64_t cols) {
    const auto fits = [](std::int64_t wanted, std::int64_t size) { return wanted == kAny || wanted == size; };
    const auto show = [](std::int64_t wanted) { return wanted == kAny ? std::string("any") : std::to_string(wanted); };
    require(fits(rows, matrix.spec.rows) && fits(cols, matrix.spec.cols), ErrorKind::usage, "argument ", argument,
            ": expected a Matrix of shape [", show(rows), ", ", show(cols), "]; got [", matrix.spec.rows, ", ",
            matrix.spec.cols, "]");
}

kernels::GateKind gate_kind(const std::string& name) {
    if (name == "silu") return kernels::GateKind::silu;
    if (name == "gelu_tanh") return kernels::GateKind::gelu_tanh;
    if (name == "clamped_swiglu") return kernels::GateKind::clamped_swiglu;
    fail(ErrorKind::usage, "argument activation: expected one of silu, gelu_tanh, clamped_swiglu; got ", name);
}

}  // namespace moestro::bind
