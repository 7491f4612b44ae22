#include "store/read_check.h"

#include <cstring>

namespace moestro::store {

std::optional<Error> read_error(const io::Completion& completion, const io::File& file, std::uint64_t offset,
                                std::uint64_t bytes, const std::string& what) {
    if (completion.error != 0)
        return Error(ErrorKind::io,
                     text(what, ": reading ", bytes, " bytes at offset ", offset, " of ", file.path(),
                          " failed: ", std::strerror(completion.error), ". Check the disk, then try again"));
    if (completion.bytes < bytes)
        return Error(ErrorKind::io,
                     text(what, ": expected ", bytes, " bytes at offset ", offset, " of ", file.path(),
                          ", but the file ended after ", completion.bytes, " of them: it is cut off, fetch it again"));
    return std::nullopt;
}

std::optional<Error> change_error(const io::File& file) {
    try {
        file.check_unchanged();
        return std::nullopt;
    } catch (const Error& error) {
        return error;
    }
}

Error with_context(const std::string& what, const Error& error) {
    return Error(error.kind(), text(what, ": ", error.what()));
}

}  // namespace moestro::store
