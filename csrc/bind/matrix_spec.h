// A matrix's shape and format as Python spells them.
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

}  // namespace moestro::bind
