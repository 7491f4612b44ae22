#include "io/uring.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <string>

#include "base/error.h"

namespace moestro::io {

namespace {

// SINGLE_MMAP: one mapping holds both rings. NODROP: the kernel never loses a completion.
constexpr unsigned kNeededFeatures = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP;
constexpr std::array kNeededOperations{IORING_OP_READ, IORING_OP_READ_FIXED};
constexpr unsigned kProbedOperations = 64;

int enter(int descriptor, unsigned to_submit, unsigned to_complete, unsigned flags) {
    const long taken = ::syscall(__NR_io_uring_enter, descriptor, to_submit, to_complete, flags, nullptr, 0);
    return taken >= 0 ? static_cast<int>(taken) : -errno;
}

std::byte* map_shared(int descriptor, std::size_t bytes, std::uint64_t what) {
    void* mapped =
        ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, descriptor, static_cast<off_t>(what));
    require(mapped != MAP_FAILED, ErrorKind::unsupported, "io_uring: mapping its rings failed: ", std::strerror(errno));
    return static_cast<std::byte*>(mapped);
}

unsigned* word(std::byte* rings, unsigned offset) {
    return reinterpret_cast<unsigned*>(rings + offset);
}

}  // namespace

std::string refusal_text(int error) {
    if (error == ENOSYS) return "this kernel has none";
    if (error == EPERM)
        return "forbidden here: see the sysctl kernel.io_uring_disabled and the seccomp profile of a container";
    rlimit limit{};
    if (error != ENOMEM || ::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return std::strerror(error);
    return text(std::strerror(error), "; RLIMIT_MEMLOCK is ", limit.rlim_cur, " bytes, raise it with ulimit -l");
}

Uring::Uring(unsigned entries) {
    io_uring_params params{};
    descriptor_ = static_cast<int>(::syscall(__NR_io_uring_setup, entries, &params));
    require(descriptor_ >= 0, ErrorKind::unsupported, "io_uring: ", refusal_text(errno));
    try {
        require_features(params);
        map(params);
    } catch (...) {
        release();
        throw;
    }
}

Uring::~Uring() {
    release();
}

void Uring::require_features(const io_uring_params& params) const {
    require((params.features & kNeededFeatures) == kNeededFeatures, ErrorKind::unsupported,
            "io_uring: this kernel's version of it is too old, Linux 5.6 or later is needed");
    alignas(io_uring_probe)
        std::array<std::byte, sizeof(io_uring_probe) + kProbedOperations * sizeof(io_uring_probe_op)>
            answer{};
    const long asked =
        ::syscall(__NR_io_uring_register, descriptor_, IORING_REGISTER_PROBE, answer.data(), kProbedOperations);
    require(asked == 0, ErrorKind::unsupported, "io_uring: the kernel does not say what it can do (",
            std::strerror(errno), "), Linux 5.6 or later is needed");
    const auto& probe = *reinterpret_cast<const io_uring_probe*>(answer.data());
    for (const unsigned operation : kNeededOperations)
        require(operation <= probe.last_op && (probe.ops[operation].flags & IO_URING_OP_SUPPORTED),
                ErrorKind::unsupported, "io_uring: this kernel lacks its operation ", operation,
                " (reads), Linux 5.6 or later is needed");
}

void Uring::map(const io_uring_params& params) {
    rings_bytes_ = std::max(params.sq_off.array + params.sq_entries * sizeof(unsigned),
                            params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe));
    rings_ = map_shared(descriptor_, rings_bytes_, IORING_OFF_SQ_RING);
    entries_bytes_ = params.sq_entries * sizeof(io_uring_sqe);
    entries_ = reinterpret_cast<io_uring_sqe*>(map_shared(descriptor_, entries_bytes_, IORING_OFF_SQES));

    submit_tail_ = word(rings_, params.sq_off.tail);
    submit_mask_ = params.sq_entries - 1;
    complete_head_ = word(rings_, params.cq_off.head);
    complete_tail_ = word(rings_, params.cq_off.tail);
    complete_mask_ = params.cq_entries - 1;
    completions_ = reinterpret_cast<const io_uring_cqe*>(rings_ + params.cq_off.cqes);

    // The submission ring holds indices of entries: entry i always sits in place i.
    unsigned* order = word(rings_, params.sq_off.array);
    for (unsigned i = 0; i < params.sq_entries; ++i) order[i] = i;
}

void Uring::release() {
    if (entries_) ::munmap(entries_, entries_bytes_);
    if (rings_) ::munmap(rings_, rings_bytes_);
    ::close(descriptor_);
}

int Uring::register_buffers(std::span<const iovec> buffers) {
    const long done =
        ::syscall(__NR_io_uring_register, descriptor_, IORING_REGISTER_BUFFERS, buffers.data(), buffers.size());
    return done == 0 ? 0 : errno;
}

void Uring::push(const io_uring_sqe& entry) {
    const unsigned tail = *submit_tail_;  // only this side writes it
    entries_[tail & submit_mask_] = entry;
    std::atomic_ref(*submit_tail_).store(tail + 1, std::memory_order_release);
    ++queued_;
}

void Uring::flush() {
    while (queued_ > 0) {
        const int taken = enter(descriptor_, queued_, 0, 0);
        if (taken == -EINTR) continue;
        if (taken == -EAGAIN || taken == -EBUSY) return;  // out of memory for requests: the next flush tries again
        MOESTRO_CHECK(taken > 0);
        queued_ -= static_cast<unsigned>(taken);
    }
}

void Uring::block() {
    const int woken = enter(descriptor_, 0, 1, IORING_ENTER_GETEVENTS);
    MOESTRO_CHECK(woken >= 0 || woken == -EINTR || woken == -EAGAIN || woken == -EBUSY);
}

bool Uring::reap(io_uring_cqe& completion) {
    const unsigned head = *complete_head_;  // only this side writes it
    if (head == std::atomic_ref(*complete_tail_).load(std::memory_order_acquire)) return false;
    completion = completions_[head & complete_mask_];
    std::atomic_ref(*complete_head_).store(head + 1, std::memory_order_release);
    return true;
}

}  // namespace moestro::io
