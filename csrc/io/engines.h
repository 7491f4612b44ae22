// The two engines, for make_reader alone: options are checked and defaults filled in before they get here.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/reader.h"

namespace moestro::io {

// Throws Error(unsupported) when this kernel, or what confines this process, does not allow io_uring.
std::unique_ptr<Reader> make_uring_reader(const ReaderOptions& options);

// `refused`: why a faster engine is not used, for ReaderInfo.
std::unique_ptr<Reader> make_threads_reader(const ReaderOptions& options, std::vector<std::string> refused);

}  // namespace moestro::io
