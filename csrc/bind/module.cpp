// The extension module moestro._core.
//
// Nothing here and nothing that runs before refuse_old_cpu() needs more than baseline x86-64: an old CPU gets a
// sentence, not SIGILL. Only the per-ISA kernel objects are compiled for more, and they run through their table alone.
#include "bind/bind.h"

namespace moestro::bind {

// An Error thrown here becomes an ImportError with the same sentence; moestro.core makes it an UnsupportedError.
PYBIND11_MODULE(_core, module) {
    refuse_old_cpu();
    module.doc() = "The C++ core of moestro; moestro.core is its documented surface.";
    module.attr("__version__") = MOESTRO_VERSION;
    // The stub's names for arrays, so that they can be imported at run time too.
    const py::object array = py::module_::import("numpy").attr("ndarray");
    for (const char* alias : {"F32", "I32", "I64", "U8"}) module.attr(alias) = array;
    bind_errors(module);
    bind_compute(module);
    bind_quant(module);
    bind_io(module);
    bind_reader(module);
    bind_policy(module);
    bind_sim(module);
    bind_runtime(module);
    bind_linear(module);
    bind_ops(module);
    bind_attention(module);
    bind_workspace(module);
    bind_layers(module);
}

}  // namespace moestro::bind
