// Compute: threads and an instruction set; isa_tables: which there are.
#include <pybind11/stl.h>

#include <string>
#include <string_view>

#include "bind/bind.h"
#include "kernels/compute.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

constexpr int kMostThreads = 1024;

std::shared_ptr<kernels::Compute> make_compute(int threads, const std::string& isa, const std::string& math) {
    require(threads >= 1 && threads <= kMostThreads, ErrorKind::usage, "argument threads: expected 1 to ", kMostThreads,
            "; got ", threads);
    return std::make_shared<kernels::Compute>(threads, kernels::choose_isa(isa, kernels::parse_math(math)));
}

bool usable(std::string_view isa) {
    try {
        kernels::choose_isa(isa);
        return true;
    } catch (const Error& error) {
        if (error.kind() != ErrorKind::unsupported) throw;
        return false;
    }
}

// Why `best` is not the named table; empty when it is. Its refusals read "name: reason".
std::string reason(const kernels::IsaChoice& best, std::string_view isa) {
    const std::string prefix = text(isa, ": ");
    for (const std::string& refused : best.refused) {
        if (refused.starts_with(prefix)) return refused.substr(prefix.size());
    }
    return {};
}

py::list isa_tables() {
    const kernels::IsaChoice best = kernels::choose_isa("");
    py::list tables;
    for (const kernels::Isa isa : {kernels::Isa::scalar, kernels::Isa::avx2, kernels::Isa::avx512}) {
        const std::string_view name = kernels::name(isa);
        tables.append(py::dict("name"_a = name, "usable"_a = usable(name), "reason"_a = reason(best, name)));
    }
    return tables;
}

}  // namespace

void refuse_old_cpu() {
    const kernels::IsaChoice best = kernels::choose_isa("");
    require(best.active != kernels::Isa::scalar, ErrorKind::unsupported,
            "moestro needs an x86-64 CPU with AVX2, FMA and F16C: ", reason(best, "avx2"), ".");
}

void bind_compute(py::module_& module) {
    py::class_<kernels::Compute, std::shared_ptr<kernels::Compute>>(module, "Compute",
                                                                    "Threads and an instruction set to compute with.")
        .def(py::init(&make_compute), "threads"_a = 1, "isa"_a = "", "math"_a = "exact")
        .def_property_readonly("threads", [](kernels::Compute& compute) { return compute.pool().threads(); })
        .def_property_readonly("isa",
                               [](const kernels::Compute& compute) { return kernels::name(compute.isa().active); })
        .def_property_readonly("math",
                               [](const kernels::Compute& compute) { return kernels::name(compute.isa().math); })
        .def_property_readonly("refused", [](const kernels::Compute& compute) { return compute.isa().refused; });
    module.def("isa_tables", &isa_tables);
}

}  // namespace moestro::bind
