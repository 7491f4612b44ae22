// Error kinds -> exceptions of moestro.errors, here and nowhere else.
#include <new>

#include "base/error.h"
#include "bind/bind.h"

namespace moestro::bind {
namespace {

const char* class_name(ErrorKind kind) {
    switch (kind) {
        case ErrorKind::usage:
            return "UsageError";
        case ErrorKind::checkpoint:
            return "CheckpointError";
        case ErrorKind::io:
            return "StorageError";
        case ErrorKind::integrity:
            return "IntegrityError";
        case ErrorKind::budget:
            return "BudgetError";
        case ErrorKind::numeric:
            return "NumericError";
        case ErrorKind::unsupported:
            return "UnsupportedError";
        case ErrorKind::cancelled:
            return "CancelledError";
        case ErrorKind::internal:
            break;
    }
    return "InternalError";
}

void raise(ErrorKind kind, const char* message) {
    py::set_error(py::module_::import("moestro.errors").attr(class_name(kind)), message);
}

}  // namespace

void bind_errors(py::module_&) {
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            std::rethrow_exception(pointer);
        } catch (const Error& error) {
            raise(error.kind(), error.what());
        } catch (const std::bad_alloc&) {
            raise(ErrorKind::budget, "the system refused memory that the budget allowed: give a smaller host_memory");
        }
    });
}

}  // namespace moestro::bind
