// A matrix's shape and format as Python spells them.
#pragma once

#include <cstdint>
#include <string>

#include "quant/format.h"

namespace moestro::bind {

// Throws Error(usage) for names that do not exist, empty or huge shapes, and scales that do not go with the format.
quant::MatrixSpec matrix_spec(const std::string& format, const std::string& scale, std::int64_t rows,
                              std::int64_t cols);

}  // namespace moestro::bind
