// What matrices are and how they are used, as Python spells it.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/ops.h"
#include "quant/format.h"

namespace moestro::bind {

// Throws Error(usage) for names that do not exist, empty or huge shapes, and scales that do not go with the format.
quant::MatrixSpec matrix_spec(const std::string& format, const std::string& scale, std::int64_t rows,
                              std::int64_t cols);

// Throws Error(usage) naming the argument unless the matrix has this shape; kAny is any size.
void require_matrix(const kernels::Matrix& matrix, const char* argument, std::int64_t rows, std::int64_t cols);

// What gated MLPs make of gate and up, by name. Throws Error(usage) listing the known ones.
kernels::GateKind gate_kind(const std::string& name);

}  // namespace moestro::bind
