// What the files of the binding share: one function per topic, and how Python holds the core's objects. Bindings
// convert and check arguments, release the GIL, call the core and convert the result; they decide nothing.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "base/error.h"
#include "engine/runtime.h"
#include "kernels/ops.h"
#include "memory/kv_pool.h"

namespace moestro::bind {

namespace py = pybind11;

// Throws Error(unsupported) on a CPU without AVX2, FMA and F16C. Runs no code that needs them.
void refuse_old_cpu();

void bind_errors(py::module_& module);     // Error kinds -> the classes of moestro.errors
void bind_compute(py::module_& module);    // Compute, isa_tables
void bind_quant(py::module_& module);      // Matrix, packing
void bind_io(py::module_& module);         // xxh64, READERS, measure_read_rate
void bind_reader(py::module_& module);     // Reader, page_array
void bind_runtime(py::module_& module);    // Runtime, Ledger, KvPool, Ticket, POLICIES
void bind_linear(py::module_& module);     // linears and gated MLPs on rows
void bind_ops(py::module_& module);        // norms, sums, routing, rotary positions, embeddings
void bind_attention(py::module_& module);  // kv_append, attention
void bind_workspace(py::module_& module);  // Workspace
void bind_layers(py::module_& module);     // layers of a decoder, with their constants
void bind_policy(py::module_& module);     // LaneCosts, PredictorSettings, planners; names of policies
void bind_sim(py::module_& module);        // RoutingRecord, replay

// Python's Matrix. (A struct of ours, because a class_ cannot be held by a pointer to const.)
struct MatrixRef {
    std::shared_ptr<const kernels::Matrix> matrix;

    // To compute with it now. Throws Error(usage) naming the argument while its bytes are not in memory.
    const kernels::Matrix& here(const char* argument) const {
        require(matrix->data != nullptr, ErrorKind::usage, "argument ", argument,
                ": this Matrix is not in memory now: hold its unit, or acquire its expert, while you use it");
        return *matrix;
    }
};

// Python's Compute is a kernels::Compute held by std::shared_ptr; a Runtime hands out its own with an aliasing pointer.

// Shared by a Python Runtime and everything it handed out. close() resets `runtime`; a call copies the pointer while it
// holds the GIL, so that closing in another thread waits for it instead of pulling the memory away.
struct RuntimeSlot {
    std::shared_ptr<engine::Runtime> runtime;

    // Throws Error(usage) once closed.
    std::shared_ptr<engine::Runtime> open() const {
        require(runtime != nullptr, ErrorKind::usage, "this Runtime is closed: make a new one");
        return runtime;
    }
};

// Python's KvPool.
struct KvRef {
    std::shared_ptr<RuntimeSlot> slot;
    memory::KvPool* pool = nullptr;  // owned by the runtime

    // The pool, keeping its runtime alive. Throws Error(usage) once the runtime is closed.
    std::shared_ptr<memory::KvPool> open() const { return {slot->open(), pool}; }
};

}  // namespace moestro::bind
