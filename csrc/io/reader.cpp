#include "io/reader.h"

#include "base/error.h"
#include "base/types.h"
#include "io/engines.h"

namespace moestro::io {

namespace {

constexpr int kUringDepth = 32;
constexpr int kThreadsDepth = 8;
constexpr int kMaxDepth = 1024;
constexpr std::size_t kDefaultReadBytes = std::size_t{4} << 20;
constexpr std::size_t kMaxReadBytes = std::size_t{1} << 30;  // the kernel takes a little under 2 GiB at once

ReaderOptions checked(ReaderOptions options) {
    require(options.engine == "auto" || options.engine == "io_uring" || options.engine == "threads", ErrorKind::usage,
            "unknown reader \"", options.engine, "\": choose auto, io_uring or threads");
    require(options.depth >= 0 && options.depth <= kMaxDepth, ErrorKind::usage, "reader depth must be 1 to ", kMaxDepth,
            " (0 = default), got ", options.depth);
    if (options.max_read_bytes == 0) options.max_read_bytes = kDefaultReadBytes;
    require(options.max_read_bytes % kPageBytes == 0 && options.max_read_bytes <= kMaxReadBytes, ErrorKind::usage,
            "max_read_bytes must be a multiple of 4096 up to 1 GiB, got ", options.max_read_bytes);
    return options;
}

ReaderOptions with_depth(ReaderOptions options, int fallback) {
    if (options.depth == 0) options.depth = fallback;
    return options;
}

}  // namespace

std::unique_ptr<Reader> make_reader(const ReaderOptions& given) {
    const ReaderOptions options = checked(given);
    if (options.engine == "threads")
        return make_threads_reader(with_depth(options, kThreadsDepth), {"io_uring: threads were asked for"});
    try {
        return make_uring_reader(with_depth(options, kUringDepth));
    } catch (const Error& error) {
        if (options.engine == "io_uring" || error.kind() != ErrorKind::unsupported) throw;
        return make_threads_reader(with_depth(options, kThreadsDepth), {error.what()});
    }
}

}  // namespace moestro::io
