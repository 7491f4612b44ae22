// Asynchronous file reading: one contract, two engines (io_uring, preadv threads), chosen at start by probing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moestro::io {

// An open file. `direct` says whether reads bypass the page cache (O_DIRECT); then offset, length and destination of
// every read are multiples of `alignment` (a power of two <= 4096 the file system asks for; 1 when not direct).
// Immutable after open; any thread may use it.
class File {
  public:
    enum class Cache { direct, buffered };
    // Cache::direct falls back to buffered where the file system refuses O_DIRECT; `refusal()` then says why.
    // Throws Error(io) naming the path.
    static std::shared_ptr<const File> open(const std::string& path, Cache cache);
    ~File();

    const std::string& path() const { return path_; }  // absolute
    int descriptor() const { return descriptor_; }
    std::uint64_t size() const { return size_; }
    bool direct() const { return direct_; }
    std::size_t alignment() const { return alignment_; }
    const std::string& refusal() const { return refusal_; }
    // Throws Error(integrity) when size, mtime or inode are not what they were at open.
    void check_unchanged() const;

  private:
    File() = default;
    std::string path_, refusal_;
    int descriptor_ = -1;
    bool direct_ = false;
    std::size_t alignment_ = 1;
    std::uint64_t size_ = 0, inode_ = 0, device_ = 0;
    std::int64_t mtime_ns_ = 0;
};

// "direct" or "buffered". Throws Error(usage) for anything else.
File::Cache parse_cache(std::string_view text);

struct ReadRequest {
    std::shared_ptr<const File> file;
    std::uint64_t offset = 0;
    std::span<std::byte> destination;  // must stay valid until the completion is returned
    std::uint64_t tag = 0;             // the caller's own, returned with the completion
    bool urgent = false;               // overtakes queued requests that are not
};

struct Completion {
    std::uint64_t tag = 0;
    // Bytes that arrived. Equals the request's length, or less only when the file ends inside the request: a short
    // transfer in the middle of a file is continued by the reader itself, EINTR and EAGAIN are retried.
    std::size_t bytes = 0;
    int error = 0;  // errno; 0 = success. The reader never throws for a device error: it surfaces where someone waits.
};

struct ReaderInfo {
    std::string engine;                     // "io_uring" | "threads"
    int depth = 0;                          // reads given to the system at once
    std::size_t registered_bytes = 0;       // fixed buffers registered with the kernel
    std::vector<std::string> refused = {};  // fast paths not active, each with its reason
};

// REQUIRES of all engines: any thread may submit; poll and wait are called by one thread at a time. Requests beyond
// the depth queue inside, urgent ones first, otherwise in order of submission. Destruction waits for everything the
// system holds and drops what is queued. Completions come in any order.
class Reader {
  public:
    virtual ~Reader() = default;
    // Throws Error(usage) for a misaligned request on a direct file, then nothing is submitted; never blocks on the
    // device.
    virtual void submit(std::span<const ReadRequest> requests) = 0;
    // Moves finished requests to `out` (appended) without blocking and keeps the device busy from the queue.
    virtual void poll(std::vector<Completion>& out) = 0;
    // The same, but blocks until at least one completion is appended. REQUIRES in_flight() > 0; comes back empty-handed
    // only when another thread cancelled all that was left.
    virtual void wait(std::vector<Completion>& out) = 0;
    // Submitted and not yet returned by poll or wait, queued ones included.
    virtual std::size_t in_flight() const = 0;
    // Removes queued requests whose tag matches; returns how many. Those already with the system complete normally.
    virtual std::size_t cancel(std::uint64_t tag) = 0;
    virtual ReaderInfo info() const = 0;
};

struct ReaderOptions {
    std::string engine = "auto";  // "auto" | "io_uring" | "threads": auto takes io_uring where the kernel allows it
    int depth = 0;                // at most 1024; 0 = default (32 for io_uring, 8 threads)
    // Larger requests are split and run in parallel: a multiple of 4096 up to 1 GiB; 0 = default (4 MiB).
    std::size_t max_read_bytes = 0;
    // Memory the caller will read into; registered with the kernel when RLIMIT_MEMLOCK allows, else refused aloud.
    std::vector<std::span<std::byte>> registered = {};
};

// Throws Error(unsupported) when a named engine cannot run here, saying why; Error(usage) for options out of range.
std::unique_ptr<Reader> make_reader(const ReaderOptions& options);

}  // namespace moestro::io
