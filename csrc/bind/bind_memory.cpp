// Ledger and KvPool.
#include <pybind11/stl.h>

#include <string>

#include "bind/runtime_ref.h"
#include "memory/kv_pool.h"
#include "memory/ledger.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

py::list entries(const memory::Ledger& ledger) {
    py::list all;
    for (const memory::LedgerEntry& entry : ledger.entries())
        all.append(py::dict("name"_a = entry.name, "bytes"_a = entry.bytes, "peak"_a = entry.peak));
    return all;
}

// Python may give back more than it took, or what the core took: neither is the core's bug.
void give(memory::Ledger& ledger, const std::string& name, std::size_t bytes) {
    for (const char* held : {"trunk", "expert slots", "staging", "kv"})
        require(name != held, ErrorKind::usage, "argument name: ", name, " is given back by the core itself");
    for (const memory::LedgerEntry& entry : ledger.entries())
        if (entry.name == name && bytes <= entry.bytes) return ledger.give(name, bytes);
    fail(ErrorKind::usage, "argument nbytes: ", name, " does not hold ", bytes, " bytes");
}

// KV calls keep the GIL: the pool serves one thread at a time.
template <class Result, class... Arguments>
auto on_pool(Result (memory::KvPool::*call)(Arguments...)) {
    return [call](const KvRef& kv, Arguments... arguments) { return ((*kv.open()).*call)(arguments...); };
}
template <class Result, class... Arguments>
auto on_pool(Result (memory::KvPool::*call)(Arguments...) const) {
    return [call](const KvRef& kv, Arguments... arguments) { return ((*kv.open()).*call)(arguments...); };
}

}  // namespace

void bind_memory(py::module_& module) {
    using memory::KvPool, memory::Ledger;
    py::class_<Ledger, std::shared_ptr<Ledger>>(module, "Ledger", "One budget, named reservations, in bytes.")
        .def_property_readonly("budget", &Ledger::budget)
        .def_property_readonly("held", &Ledger::held)
        .def_property_readonly("peak", &Ledger::peak)
        .def_property_readonly("free", &Ledger::free)
        .def("take", &Ledger::take, "name"_a, "nbytes"_a)
        .def("give", &give, "name"_a, "nbytes"_a)
        .def("entries", &entries);
    py::class_<KvRef>(module, "KvPool", "Memory for KV blocks of 64 positions, all layers of a block together.")
        .def("allocate", on_pool(&KvPool::allocate))
        .def("share", on_pool(&KvPool::share), "block"_a)
        .def("release", on_pool(&KvPool::release), "block"_a)
        .def("references", on_pool(&KvPool::references), "block"_a)
        .def("copy", on_pool(&KvPool::copy), "source"_a, "destination"_a)
        .def_property_readonly("block_bytes", on_pool(&KvPool::block_bytes))
        .def_property_readonly("blocks_in_use", on_pool(&KvPool::blocks_in_use))
        .def_property_readonly("blocks_available", on_pool(&KvPool::blocks_available));
}

}  // namespace moestro::bind
