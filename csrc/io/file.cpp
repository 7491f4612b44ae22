#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"
#include "io/reader.h"

namespace moestro::io {

namespace {

struct DirectDescriptor {
    int descriptor = -1;  // -1: refused, see `refusal`
    std::size_t alignment = 0;
    std::string refusal;
};

struct stat status_of(const std::string& path, ErrorKind kind) {
    struct stat status {};
    // Not as an argument of require(): the compiler may read errno before it calls stat.
    if (::stat(path.c_str(), &status) != 0) fail(kind, "cannot open ", path, ": ", std::strerror(errno));
    return status;
}

// check_unchanged() must find the file again after the process changed its directory.
std::string absolute(const std::string& path) {
    std::error_code error;
    std::string full = std::filesystem::absolute(path, error).string();
    return error ? path : full;
}

int open_or_fail(const std::string& path) {
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    require(descriptor >= 0, ErrorKind::io, "cannot open ", path, ": ", std::strerror(errno));
    return descriptor;
}

// What the file system states: 0 means no direct reads of this file. Nothing: the kernel does not say (before 6.1).
std::optional<std::size_t> stated_alignment([[maybe_unused]] int descriptor) {
#ifdef STATX_DIOALIGN
    struct statx status {};
    if (::statx(descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 && (status.stx_mask & STATX_DIOALIGN))
        return std::max(status.stx_dio_mem_align, status.stx_dio_offset_align);
#endif
    return std::nullopt;
}

// The smallest unit a read succeeds with; 0 if none does. Offset, length and address are all odd multiples of it.
std::size_t probed_alignment(int descriptor) {
    struct stat status {};
    if (::fstat(descriptor, &status) != 0 || status.st_size == 0) return kPageBytes;  // nothing there to try it on
    const PageBuffer buffer(2 * kPageBytes);
    for (const std::size_t unit : {std::size_t{512}, kPageBytes}) {
        const off_t offset = status.st_size > static_cast<off_t>(unit) ? static_cast<off_t>(unit) : 0;
        if (::pread(descriptor, buffer.data() + unit, unit, offset) >= 0) return unit;
    }
    return 0;
}

DirectDescriptor open_direct(const std::string& path) {
    DirectDescriptor opened;
    opened.descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (opened.descriptor < 0) {
        require(errno == EINVAL, ErrorKind::io, "cannot open ", path, ": ", std::strerror(errno));
        opened.refusal = text("O_DIRECT: the file system of ", path, " refuses it");
        return opened;
    }
    const std::optional<std::size_t> stated = stated_alignment(opened.descriptor);
    opened.alignment = stated ? *stated : probed_alignment(opened.descriptor);
    if (opened.alignment == 0)
        opened.refusal = text("O_DIRECT: the file system of ", path, " takes no direct reads of this file");
    else if (opened.alignment > kPageBytes)
        opened.refusal =
            text("O_DIRECT: ", path, " needs an alignment of ", opened.alignment, " bytes, at most 4096 is handled");
    if (!opened.refusal.empty()) {
        ::close(opened.descriptor);
        opened.descriptor = -1;
    }
    return opened;
}

std::int64_t modified_ns(const struct stat& status) {
    return static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

}  // namespace

File::Cache parse_cache(std::string_view name) {
    if (name == "direct") return File::Cache::direct;
    if (name == "buffered") return File::Cache::buffered;
    fail(ErrorKind::usage, "argument cache: expected 'direct' or 'buffered'; got '", name, "'");
}

std::shared_ptr<const File> File::open(const std::string& name, Cache cache) {
    const std::string path = absolute(name);
    // Asked before opening: opening a FIFO would block, a directory would open.
    require(S_ISREG(status_of(path, ErrorKind::io).st_mode), ErrorKind::io, path, " is not a regular file");
    std::shared_ptr<File> file(new File);
    file->path_ = path;
    if (cache == Cache::direct) {
        DirectDescriptor opened = open_direct(path);
        file->descriptor_ = opened.descriptor;
        file->refusal_ = std::move(opened.refusal);
        file->direct_ = opened.descriptor >= 0;
        if (file->direct_) file->alignment_ = opened.alignment;
    }
    if (file->descriptor_ < 0) file->descriptor_ = open_or_fail(path);

    struct stat status {};
    if (::fstat(file->descriptor_, &status) != 0) fail(ErrorKind::io, "cannot stat ", path, ": ", std::strerror(errno));
    file->size_ = static_cast<std::uint64_t>(status.st_size);
    file->inode_ = status.st_ino;
    file->device_ = status.st_dev;
    file->mtime_ns_ = modified_ns(status);
    return file;
}

File::~File() {
    if (descriptor_ >= 0) ::close(descriptor_);
}

void File::check_unchanged() const {
    const struct stat now = status_of(path_, ErrorKind::integrity);
    require(now.st_ino == inode_ && now.st_dev == device_, ErrorKind::integrity, path_,
            " was replaced by another file while in use: load the model again");
    require(static_cast<std::uint64_t>(now.st_size) == size_, ErrorKind::integrity, path_, " was ", size_,
            " bytes when opened and is ", now.st_size, " now: load the model again");
    require(modified_ns(now) == mtime_ns_, ErrorKind::integrity, path_,
            " was modified while in use: load the model again");
}

}  // namespace moestro::io
