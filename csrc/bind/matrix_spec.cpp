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

}  // namespace moestro::bind
