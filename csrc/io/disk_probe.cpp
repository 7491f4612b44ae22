#include "io/disk_probe.h"

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"

namespace moestro::io {

namespace {

// Hands out the file's whole blocks in order, each into the buffer of the block that just finished.
class BlockWalk {
  public:
    BlockWalk(Reader& reader, std::shared_ptr<const File> file, std::uint64_t offset, std::size_t block_bytes,
              int depth)
        : reader_(reader),
          file_(std::move(file)),
          block_bytes_(block_bytes),
          // As slots are: a disk's controller takes so many pieces per request, and a huge page is one.
          memory_(block_bytes * static_cast<std::size_t>(depth), true),
          next_(offset) {
        // The first touch of a page is not the disk's time.
        for (std::size_t at = 0; at < memory_.size(); at += kPageBytes) memory_.data()[at] = std::byte{1};
    }

    void submit_into(std::uint64_t buffer) {
        if (next_ + block_bytes_ > file_->size()) return;
        const ReadRequest read{file_, next_, memory_.span().subspan(buffer * block_bytes_, block_bytes_), buffer};
        reader_.submit(std::span(&read, 1));
        next_ += block_bytes_;
    }

  private:
    Reader& reader_;
    std::shared_ptr<const File> file_;
    std::size_t block_bytes_;
    PageBuffer memory_;
    std::uint64_t next_;
};

// The memory of reads under way must outlive them, also when a failed read ends the measurement.
void drain(Reader& reader) {
    std::vector<Completion> unused;
    while (reader.in_flight() > 0) reader.wait(unused);
}

}  // namespace

DiskRate measure_read_rate(Reader& reader, std::shared_ptr<const File> file, std::size_t block_bytes, int depth,
                           Nanos at_most, std::uint64_t offset, const Clock& clock) {
    require(block_bytes > 0 && block_bytes % kPageBytes == 0, ErrorKind::usage,
            "block_bytes must be a multiple of 4096, got ", block_bytes);
    require(depth >= 1, ErrorKind::usage, "depth must be at least 1, got ", depth);
    require(offset % kPageBytes == 0, ErrorKind::usage, "offset must be a multiple of 4096, got ", offset);
    require(file->size() >= block_bytes && file->size() - block_bytes >= offset, ErrorKind::usage, file->path(),
            " has ", file->size(), " bytes, less than one block of ", block_bytes, " from ", offset,
            " on: give a larger file");

    // Otherwise a buffered read measures memory.
    ::posix_fadvise(file->descriptor(), static_cast<off_t>(offset), 0, POSIX_FADV_DONTNEED);

    BlockWalk walk(reader, file, offset, block_bytes, depth);
    DiskRate rate{.direct = file->direct()};
    const Nanos begin = clock.now();
    for (int buffer = 0; buffer < depth; ++buffer) walk.submit_into(static_cast<std::uint64_t>(buffer));
    std::vector<Completion> done;
    while (reader.in_flight() > 0) {
        done.clear();
        reader.wait(done);
        for (const Completion& one : done) {
            if (one.error != 0) {
                drain(reader);
                fail(ErrorKind::io, "cannot read ", file->path(), ": ", std::strerror(one.error));
            }
            rate.bytes += one.bytes;
            if (clock.now() - begin < at_most) walk.submit_into(one.tag);
        }
    }
    rate.elapsed = std::max<Nanos>(clock.now() - begin, 1);
    rate.bytes_per_second = static_cast<double>(rate.bytes) * 1e9 / static_cast<double>(rate.elapsed);
    return rate;
}

}  // namespace moestro::io
