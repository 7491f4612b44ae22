// Sizes as people read them.
#pragma once

#include <cstddef>
#include <string>

namespace moestro {

// "912 bytes", "1.50 KiB", "3.27 GiB": three digits, binary units, as the API takes them.
std::string bytes_text(std::size_t bytes);

}  // namespace moestro
