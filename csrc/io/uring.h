// One io_uring instance through the kernel's own interface, as far as reading files needs it.
#pragma once

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace moestro::io {

// What an errno of an io_uring call means here and what to do about it.
std::string refusal_text(int error);

// Not synchronised: the owner's mutex guards everything but block(), which may run beside push() and flush() of other
// threads. At most `entries` reads may be pushed and not yet reaped: then neither of the two rings can overflow.
class Uring {
  public:
    // Throws Error(unsupported) with the missing call, permission or feature.
    explicit Uring(unsigned entries);
    ~Uring();
    Uring(const Uring&) = delete;
    Uring& operator=(const Uring&) = delete;

    // Pins the memory for the life of the ring. Returns 0 or the errno of the refusal.
    int register_buffers(std::span<const iovec> buffers);

    // Queues one entry; the kernel sees it at the next flush().
    void push(const io_uring_sqe& entry);
    // Gives queued entries to the kernel; those it has no memory for now stay queued for the next call.
    void flush();
    // Entries pushed that the kernel has not taken.
    unsigned queued() const { return queued_; }
    // Returns once a completion is there to reap, at times earlier.
    void block();
    // The next completion, oldest first; false when there is none.
    bool reap(io_uring_cqe& completion);

  private:
    void require_features(const io_uring_params& params) const;
    void map(const io_uring_params& params);
    void release();

    int descriptor_ = -1;
    std::byte* rings_ = nullptr;  // both rings, shared with the kernel
    std::size_t rings_bytes_ = 0;
    io_uring_sqe* entries_ = nullptr;
    std::size_t entries_bytes_ = 0;

    unsigned* submit_tail_ = nullptr;
    unsigned submit_mask_ = 0;
    unsigned* complete_head_ = nullptr;
    unsigned* complete_tail_ = nullptr;
    const io_uring_cqe* completions_ = nullptr;
    unsigned complete_mask_ = 0;
    unsigned queued_ = 0;
};

}  // namespace moestro::io
