// One wording for reads that went wrong.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/error.h"
#include "io/reader.h"

namespace moestro::store {

// What a completed read of `bytes` at `offset` of `file` says: nothing when all arrived, else an Error(io) sentence
// starting with `what`.
std::optional<Error> read_error(const io::Completion& completion, const io::File& file, std::uint64_t offset,
                                std::uint64_t bytes, const std::string& what);

// Nothing, or the Error(integrity) of File::check_unchanged.
std::optional<Error> change_error(const io::File& file);

// The same error, of the same kind, naming what it happened to.
Error with_context(const std::string& what, const Error& error);

}  // namespace moestro::store
