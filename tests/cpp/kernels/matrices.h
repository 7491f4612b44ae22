// Random packed matrices.
#pragma once

#include "kernels/bits.h"
#include "kernels/ops.h"
#include "quant/pack.h"

namespace moestro::testing {

struct PackedMatrix {
    kernels::Matrix matrix;
    AlignedBytes bytes;
    std::vector<float> values;  // [rows, cols], exactly what the packed matrix holds
};

inline PackedMatrix pack_matrix(std::vector<float> weights, int rows, int cols, quant::Format format,
                                quant::ScaleType scale) {
    const quant::Source source{reinterpret_cast<const std::byte*>(weights.data()), quant::SourceType::f32, rows, cols};
    PackedMatrix packed;
    packed.matrix.spec = {rows, cols, format, scale};
    packed.bytes = aligned_bytes(packed.matrix.spec.bytes());
    packed.matrix.data = packed.bytes.get();
    quant::pack(source, packed.matrix.spec, packed.bytes.get(), 0, packed.matrix.spec.panels());
    packed.values.resize(weights.size());
    quant::unpack(packed.bytes.get(), packed.matrix.spec, packed.values.data());
    return packed;
}

inline PackedMatrix random_matrix(int rows, int cols, quant::Format format, quant::ScaleType scale, unsigned seed) {
    const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols);
    return pack_matrix(normal_floats(count, seed, 0.05f), rows, cols, format, scale);
}

struct FormatCase {
    quant::Format format;
    quant::ScaleType scale;
    std::string name() const { return std::string(quant::name(format)) + "_" + std::string(quant::name(scale)); }
};
inline std::vector<FormatCase> every_format() {
    using quant::Format, quant::ScaleType;
    return {{Format::f32, ScaleType::none}, {Format::bf16, ScaleType::none}, {Format::q8, ScaleType::f16},
            {Format::q8, ScaleType::bf16},  {Format::q8, ScaleType::f32},    {Format::q4, ScaleType::f16},
            {Format::q4, ScaleType::bf16},  {Format::q4, ScaleType::f32}};
}

// x [rows, cols] through the matrix, prepared as its format wants.
inline std::vector<float> run_linear(kernels::Compute& compute, const kernels::Matrix& weight,
                                     const std::vector<float>& x, int rows) {
    kernels::Activations input;
    input.prepare(compute, x.data(), rows, weight.spec.cols, quant::is_integer(weight.spec.format));
    std::vector<float> y(static_cast<std::size_t>(rows * weight.spec.rows), -1.0f);
    const kernels::LinearJob job{weight, y.data(), weight.spec.rows};
    kernels::linear(compute, input, {&job, 1});
    return y;
}

}  // namespace moestro::testing
