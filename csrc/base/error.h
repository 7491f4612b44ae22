// One exception type for the whole core. The kind decides which Python exception it becomes (bind/errors.cpp, once);
// the message names the thing, says what was expected and what to do.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace moestro {

enum class ErrorKind {
    usage,        // a caller's argument is wrong                      -> UsageError (ValueError)
    checkpoint,   // a model's files say something impossible          -> CheckpointError (ValueError)
    io,           // the operating system refused or failed            -> StorageError (OSError)
    integrity,    // bytes on disk changed or do not match a checksum  -> IntegrityError (OSError)
    budget,       // a reservation does not fit its memory budget      -> BudgetError (MemoryError)
    numeric,      // a non-finite activation                           -> NumericError (ArithmeticError)
    unsupported,  // this machine or build cannot do it                -> UnsupportedError (RuntimeError)
    cancelled,    // the caller asked to stop                          -> CancelledError (RuntimeError)
    internal,     // a bug in moestro                                  -> InternalError (RuntimeError)
};

class Error : public std::runtime_error {
  public:
    Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
    ErrorKind kind() const noexcept { return kind_; }

  private:
    ErrorKind kind_;
};

// Concatenates anything that streams: text("slot ", i, " of ", n).
template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

template <class... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
    throw Error(kind, text(parts...));
}

// User and machine errors: a kind and a full sentence.
template <class... Parts>
void require(bool ok, ErrorKind kind, const Parts&... parts) {
    if (!ok) fail(kind, parts...);
}

// Programmer errors: a broken invariant of ours. Never for bad input.
#define MOESTRO_CHECK(condition)                                                     \
    do {                                                                             \
        if (!(condition))                                                            \
            ::moestro::fail(::moestro::ErrorKind::internal, __FILE__, ":", __LINE__, \
                            ": broken invariant: ", #condition);                     \
    } while (0)

}  // namespace moestro
