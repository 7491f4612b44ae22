// Reading files into arrays that the caller brings.
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "base/memory.h"
#include "bind/tensor_view.h"
#include "io/read_batch.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

// Arrays are kept as long as they may be written to. Members are destroyed last to first: the reads end before their
// memory goes.
struct ReaderRef {
    std::map<std::uint64_t, View<std::uint8_t>> arrays;
    std::unique_ptr<io::ReadBatch> batch;
};

ReaderRef make_reader(const std::string& engine, int depth, const std::string& cache, std::size_t read_bytes) {
    const io::File::Cache mode = io::parse_cache(cache);
    py::gil_scoped_release released;
    return {
        {},
        std::make_unique<io::ReadBatch>(
            io::make_reader({.engine = engine, .depth = depth, .max_read_bytes = read_bytes, .registered = {}}), mode)};
}

std::uint64_t submit(ReaderRef& self, const std::string& path, std::uint64_t offset, const py::object& out,
                     bool urgent) {
    auto view = output<std::uint8_t>(out, "out", Shape::exactly({kAny}));
    std::uint64_t number = 0;
    {
        const std::span into(reinterpret_cast<std::byte*>(view.data), static_cast<std::size_t>(view.size()));
        py::gil_scoped_release released;
        number = self.batch->submit(path, offset, into, urgent);
    }
    self.arrays.emplace(number, std::move(view));
    return number;
}

std::vector<std::uint64_t> wait(ReaderRef& self) {
    std::vector<std::uint64_t> done;
    const auto forget = [&] {
        std::erase_if(self.arrays, [&](const auto& one) { return !self.batch->requests().contains(one.first); });
    };
    try {
        py::gil_scoped_release released;
        done = self.batch->wait();
    } catch (...) {
        forget();
        throw;
    }
    forget();
    return done;
}

py::dict info(const ReaderRef& self) {
    const io::ReaderInfo info = self.batch->info();
    return py::dict("engine"_a = info.engine, "depth"_a = info.depth, "refused"_a = info.refused);
}

// Zeros, in huge pages where the system grants them.
py::array_t<std::uint8_t> page_array(std::size_t bytes) {
    auto* pages = new PageBuffer(bytes, true);
    const py::capsule owner(pages, [](void* memory) { delete static_cast<PageBuffer*>(memory); });
    return py::array_t<std::uint8_t>(static_cast<py::ssize_t>(bytes), reinterpret_cast<std::uint8_t*>(pages->data()),
                                     owner);
}

}  // namespace

void bind_reader(py::module_& module) {
    py::class_<ReaderRef>(module, "Reader", "Reads files into arrays, many reads at a time.")
        .def(py::init(&make_reader), "engine"_a = "auto", "depth"_a = 0, py::kw_only(), "cache"_a = "direct",
             "read_bytes"_a = 0)
        .def("submit", &submit, "path"_a, "offset"_a, "out"_a, "urgent"_a = false)
        .def("wait", &wait)
        .def(
            "alignment", [](ReaderRef& self, const std::string& path) { return self.batch->alignment(path); }, "path"_a)
        .def("info", &info)
        .def_property_readonly("in_flight", [](const ReaderRef& self) { return self.batch->in_flight(); });
    module.def("page_array", &page_array, "nbytes"_a);
}

}  // namespace moestro::bind
