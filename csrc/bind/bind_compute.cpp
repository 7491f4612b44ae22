// Compute: threads and an instruction set; isa_tables: which there are.
#include <pybind11/stl.h>

#include <string>

#include "bind/bind.h"
#include "kernels/compute.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

constexpr int kMostThreads = 1024;

std::shared_ptr<kernels::Compute> make_compute(int threads, const std::string& isa) {
    require(threads >= 1 && threads <= kMostThreads, ErrorKind::usage, "argument threads: expected 1 to ", kMostThreads,
            "; got ", threads);
    return std::make_shared<kernels::Compute>(threads, kernels::choose_isa(isa));
}

// Why the CPU cannot run the named table; empty when it can.
std::string refusal(const std::string& isa) {
    try {
        kernels::choose_isa(isa);
        return {};
    } catch (const Error& error) {
        if (error.kind() != ErrorKind::unsupported) throw;
        return error.what();
    }
}

py::list isa_tables() {
    py::list tables;
    for (const kernels::Isa isa : {kernels::Isa::scalar, kernels::Isa::avx2, kernels::Isa::avx512}) {
        const std::string name(kernels::name(isa)), reason = refusal(name);
        tables.append(py::dict("name"_a = name, "usable"_a = reason.empty(), "reason"_a = reason));
    }
    return tables;
}

}  // namespace

void bind_compute(py::module_& module) {
    py::class_<kernels::Compute, std::shared_ptr<kernels::Compute>>(module, "Compute",
                                                                    "Threads and an instruction set to compute with.")
        .def(py::init(&make_compute), "threads"_a = 1, "isa"_a = "")
        .def_property_readonly("threads", [](kernels::Compute& compute) { return compute.pool().threads(); })
        .def_property_readonly("isa",
                               [](const kernels::Compute& compute) { return kernels::name(compute.isa().active); })
        .def_property_readonly("refused", [](const kernels::Compute& compute) { return compute.isa().refused; });
    module.def("isa_tables", &isa_tables);
}

}  // namespace moestro::bind
