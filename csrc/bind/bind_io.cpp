// Files: checksums and how fast a file can be read.
#include <pybind11/stl.h>

#include <memory>
#include <string>

#include "base/checksum.h"
#include "bind/bind.h"
#include "io/disk_probe.h"
#include "io/reader.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

// The bytes behind anything with the buffer protocol, released with the GIL held.
class Bytes {
  public:
    explicit Bytes(const py::object& object) {
        if (PyObject_GetBuffer(object.ptr(), &buffer_, PyBUF_SIMPLE) == 0) return;
        PyErr_Clear();
        fail(ErrorKind::usage,
             "argument data: expected contiguous bytes (bytes, bytearray, memoryview, numpy array); got ",
             std::string(py::str(py::type::handle_of(object).attr("__name__"))));
    }
    ~Bytes() { PyBuffer_Release(&buffer_); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;

    std::span<const std::byte> span() const {
        return {static_cast<const std::byte*>(buffer_.buf), static_cast<std::size_t>(buffer_.len)};
    }

  private:
    Py_buffer buffer_{};
};

std::uint64_t checksum(const py::object& data) {
    const Bytes bytes(data);
    py::gil_scoped_release released;
    return xxh64(bytes.span());
}

py::dict measure_read_rate(const std::string& path, std::int64_t block_bytes, int depth, const std::string& reader,
                           const std::string& cache, double seconds, std::uint64_t offset, std::size_t read_bytes) {
    require(block_bytes > 0 && depth > 0 && seconds > 0 && seconds <= 3600, ErrorKind::usage,
            "measure_read_rate: expected block_bytes, depth and seconds above 0 and seconds up to 3600; got ",
            block_bytes, ", ", depth, " and ", seconds);
    const io::File::Cache mode = io::parse_cache(cache);
    io::DiskRate rate;
    io::ReaderInfo info;
    std::shared_ptr<const io::File> file;
    {
        py::gil_scoped_release released;
        file = io::File::open(path, mode);
        const auto engine = io::make_reader({.engine = reader, .depth = depth, .max_read_bytes = read_bytes});
        rate = io::measure_read_rate(*engine, file, static_cast<std::size_t>(block_bytes), depth,
                                     static_cast<Nanos>(seconds * 1e9), offset);
        info = engine->info();
    }
    if (!file->refusal().empty()) info.refused.push_back(file->refusal());
    return py::dict("bytes_per_second"_a = rate.bytes_per_second, "bytes"_a = rate.bytes,
                    "seconds"_a = static_cast<double>(rate.elapsed) * 1e-9, "reader"_a = info.engine,
                    "depth"_a = info.depth, "direct"_a = rate.direct, "refused"_a = info.refused);
}

}  // namespace

void bind_io(py::module_& module) {
    module.attr("READERS") = py::make_tuple("io_uring", "threads");
    module.def("xxh64", &checksum, "data"_a);
    module.def("measure_read_rate", &measure_read_rate, "path"_a, "block_bytes"_a, "depth"_a, "reader"_a, "cache"_a,
               "seconds"_a, "offset"_a = 0, "read_bytes"_a = 0);
}

}  // namespace moestro::bind
