// Reads through io_uring. There is no thread of ours: submit() hands reads to the kernel, poll() and wait() collect
// them and refill. Only these two take completions from the ring, so a thread blocked in wait() cannot be robbed of
// the one it waits for.
#include <algorithm>
#include <chrono>
#include <mutex>
#include <optional>
#include <thread>

#include "base/error.h"
#include "io/engines.h"
#include "io/request_queue.h"
#include "io/uring.h"

namespace moestro::io {

namespace {

constexpr std::size_t kMaxBufferBytes = std::size_t{1} << 30;  // the kernel's limit for one registered buffer
constexpr std::chrono::milliseconds kNapWithoutMemory{1};

// The caller's memory in pieces the kernel takes, ordered by address.
std::vector<iovec> pieces_of(const std::vector<std::span<std::byte>>& spans) {
    std::vector<iovec> pieces;
    for (std::span<std::byte> left : spans)
        while (!left.empty()) {
            const std::size_t bytes = std::min(left.size(), kMaxBufferBytes);
            pieces.push_back({.iov_base = left.data(), .iov_len = bytes});
            left = left.subspan(bytes);
        }
    std::sort(pieces.begin(), pieces.end(), [](const iovec& a, const iovec& b) { return a.iov_base < b.iov_base; });
    return pieces;
}

std::size_t total_bytes(const std::vector<iovec>& pieces) {
    std::size_t total = 0;
    for (const iovec& piece : pieces) total += piece.iov_len;
    return total;
}

std::string registration_refusal(std::size_t bytes, int error) {
    return text("registered buffers: the kernel refused to pin ", bytes, " bytes (", refusal_text(error), ")");
}

class UringReader final : public Reader {
  public:
    explicit UringReader(const ReaderOptions& options)
        : info_{.engine = "io_uring", .depth = options.depth, .refused = {}},
          queue_(options.depth, options.max_read_bytes),
          ring_(static_cast<unsigned>(options.depth)) {
        register_buffers(pieces_of(options.registered));
    }

    ~UringReader() override {
        queue_.close();
        while (queue_.with_system() > 0) {
            ring_.flush();
            collect();
            if (queue_.with_system() > 0) block();
        }
    }

    void submit(std::span<const ReadRequest> requests) override {
        std::lock_guard lock(mutex_);
        queue_.push(requests);
        refill();
    }

    void poll(std::vector<Completion>& out) override {
        std::lock_guard lock(mutex_);
        collect();
        refill();
        queue_.take_finished(out);
    }

    void wait(std::vector<Completion>& out) override {
        for (;;) {
            {
                std::lock_guard lock(mutex_);
                collect();
                refill();
                if (queue_.has_finished() || queue_.in_flight() == 0) return queue_.take_finished(out);
            }
            block();
        }
    }

    std::size_t in_flight() const override {
        std::lock_guard lock(mutex_);
        return queue_.in_flight();
    }

    std::size_t cancel(std::uint64_t tag) override {
        std::lock_guard lock(mutex_);
        return queue_.cancel(tag);
    }

    ReaderInfo info() const override { return info_; }

  private:
    void register_buffers(std::vector<iovec> pieces) {
        if (pieces.empty()) return;
        const std::size_t bytes = total_bytes(pieces);
        if (const int error = ring_.register_buffers(pieces); error != 0) {
            info_.refused.push_back(registration_refusal(bytes, error));
            return;
        }
        info_.registered_bytes = bytes;
        registered_ = std::move(pieces);
    }

    // The registered buffer that holds the whole destination, if one does.
    std::optional<std::uint16_t> buffer_of(const Transfer& transfer) const {
        const auto begins_after = [](const std::byte* address, const iovec& piece) { return address < piece.iov_base; };
        auto piece = std::upper_bound(registered_.begin(), registered_.end(), transfer.destination, begins_after);
        if (piece == registered_.begin()) return std::nullopt;
        --piece;
        const std::byte* piece_end = static_cast<const std::byte*>(piece->iov_base) + piece->iov_len;
        if (transfer.destination + transfer.length > piece_end) return std::nullopt;
        return static_cast<std::uint16_t>(piece - registered_.begin());
    }

    void push(Transfer& transfer) {
        const std::optional<std::uint16_t> buffer = buffer_of(transfer);
        io_uring_sqe entry{};
        entry.opcode = buffer ? IORING_OP_READ_FIXED : IORING_OP_READ;
        entry.buf_index = buffer.value_or(0);
        entry.fd = transfer.file->descriptor();
        entry.off = transfer.offset;
        entry.addr = reinterpret_cast<std::uintptr_t>(transfer.destination);
        entry.len = static_cast<std::uint32_t>(transfer.length);
        entry.user_data = reinterpret_cast<std::uintptr_t>(&transfer);
        // Without this, pages found in the page cache would be copied here, by the thread that should compute.
        if (!transfer.file->direct()) entry.flags = IOSQE_ASYNC;
        ring_.push(entry);
    }

    void collect() {
        io_uring_cqe completion{};
        while (ring_.reap(completion)) {
            auto& transfer = *reinterpret_cast<Transfer*>(completion.user_data);
            if (queue_.finish(transfer, completion.res)) push(transfer);
        }
    }

    void refill() {
        while (Transfer* transfer = queue_.next()) push(*transfer);
        ring_.flush();
    }

    // Blocks until the kernel has a completion. Where it has no memory to take even one read, there will be none: then
    // the caller's loop is a slow retry.
    void block() {
        if (all_refused())
            std::this_thread::sleep_for(kNapWithoutMemory);
        else
            ring_.block();
    }

    bool all_refused() {
        std::lock_guard lock(mutex_);
        return ring_.queued() == static_cast<unsigned>(queue_.with_system());
    }

    ReaderInfo info_;                // constant after construction
    std::vector<iovec> registered_;  // constant after construction

    mutable std::mutex mutex_;  // guards the queue and the ring
    RequestQueue queue_;
    Uring ring_;
};

}  // namespace

std::unique_ptr<Reader> make_uring_reader(const ReaderOptions& options) {
    return std::make_unique<UringReader>(options);
}

}  // namespace moestro::io
