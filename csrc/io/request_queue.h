// What both engines share: cutting large requests into transfers, the order in which these go to the system, carrying
// on after short transfers, and the end-of-file rule. No system calls, no threads: an engine guards it with its mutex.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "io/reader.h"

namespace moestro::io {

// A request on its way. It lives in one list: urgent or normal while something of it is still to be cut, else `cut_`.
struct QueuedRequest {
    ReadRequest read;
    std::size_t cut = 0;   // bytes handed out as transfers so far
    int transfers = 0;     // with the system now
    std::size_t good = 0;  // its length, or where the first gap begins
    int error = 0;         // what stopped it at `good`; 0 = the file ended
};

// One read call the system is asked for: `length` bytes of `file` at `offset` into `destination`.
struct Transfer {
    const File* file = nullptr;
    std::uint64_t offset = 0;
    std::byte* destination = nullptr;
    std::size_t length = 0;

    // Kept by the queue:
    std::list<QueuedRequest>::iterator request;
    std::size_t begin = 0;  // this transfer's bytes are [begin, end) of the request
    std::size_t end = 0;
    std::size_t reached = 0;  // arrived so far: [begin, reached)
    int retries = 0;          // in a row without a byte
};

class RequestQueue {
  public:
    // At most `depth` transfers are out at once, of at most `max_read_bytes` (a multiple of 4096) each.
    RequestQueue(int depth, std::size_t max_read_bytes);

    // All or nothing: throws Error(usage) for a request without a file or misaligned on a direct one.
    void push(std::span<const ReadRequest> requests);

    // The next transfer for the system; nullptr when `depth` are out or nothing is queued. The pointer stays valid
    // until finish() returns false for it.
    Transfer* next();

    // `result` is what the system said: bytes, or -errno. True: the same transfer, now changed to what is missing, has
    // to go to the system again. False: it is done and must not be used any more.
    bool finish(Transfer& transfer, std::int64_t result);

    // Appends and forgets what is complete.
    void take_finished(std::vector<Completion>& out);
    bool has_finished() const { return !finished_.empty(); }

    // Removes requests of which nothing was handed out yet.
    std::size_t cancel(std::uint64_t tag);

    // For the end: from now on nothing is handed out and no transfer is carried on.
    void close();

    std::size_t in_flight() const { return urgent_.size() + normal_.size() + cut_.size() + finished_.size(); }
    int with_system() const { return depth() - static_cast<int>(free_.size()); }
    int depth() const { return static_cast<int>(transfers_.size()); }

  private:
    using Requests = std::list<QueuedRequest>;

    static void aim(Transfer& transfer);
    void settle(Transfer& transfer, int error);
    void complete(Requests::iterator request);

    std::size_t max_read_bytes_;
    std::vector<Transfer> transfers_;  // depth of them; addresses are stable
    std::vector<Transfer*> free_;
    Requests urgent_, normal_, cut_;
    std::vector<Completion> finished_;
    bool closed_ = false;
};

}  // namespace moestro::io
