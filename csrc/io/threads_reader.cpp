// Blocking reads on threads of their own: as many reads at once as there are threads. Runs everywhere.
#include <pthread.h>
#include <sys/uio.h>

#include <cerrno>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "io/engines.h"
#include "io/request_queue.h"

namespace moestro::io {

namespace {

std::int64_t read_now(const Transfer& transfer) {
    const iovec into{.iov_base = transfer.destination, .iov_len = transfer.length};
    const ssize_t got = ::preadv(transfer.file->descriptor(), &into, 1, static_cast<off_t>(transfer.offset));
    return got >= 0 ? got : -errno;
}

class ThreadsReader final : public Reader {
  public:
    ThreadsReader(const ReaderOptions& options, std::vector<std::string> refused)
        : info_{.engine = "threads", .depth = options.depth, .refused = std::move(refused)},
          queue_(options.depth, options.max_read_bytes) {
        if (!options.registered.empty())
            info_.refused.push_back("registered buffers: only io_uring can use them, this reader runs on threads");
        try {
            for (int thread = 0; thread < options.depth; ++thread) {
                threads_.emplace_back([this] { serve(); });
                ::pthread_setname_np(threads_.back().native_handle(), "moestro-io");
            }
        } catch (const std::system_error& error) {
            stop();
            fail(ErrorKind::unsupported, "the system refused thread ", threads_.size() + 1, " of ", options.depth,
                 " for reading (", error.what(), "): choose a smaller depth");
        }
    }

    ~ThreadsReader() override { stop(); }

    void submit(std::span<const ReadRequest> requests) override {
        {
            std::lock_guard lock(mutex_);
            queue_.push(requests);
        }
        work_.notify_all();
    }

    void poll(std::vector<Completion>& out) override {
        std::lock_guard lock(mutex_);
        queue_.take_finished(out);
    }

    void wait(std::vector<Completion>& out) override {
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return queue_.has_finished() || queue_.in_flight() == 0; });
        queue_.take_finished(out);
    }

    std::size_t in_flight() const override {
        std::lock_guard lock(mutex_);
        return queue_.in_flight();
    }

    std::size_t cancel(std::uint64_t tag) override {
        std::lock_guard lock(mutex_);
        const std::size_t cancelled = queue_.cancel(tag);
        done_.notify_one();
        return cancelled;
    }

    ReaderInfo info() const override { return info_; }

  private:
    void serve() {
        std::unique_lock lock(mutex_);
        while (!stopping_) {
            Transfer* transfer = queue_.next();
            if (!transfer) {
                work_.wait(lock);
                continue;
            }
            std::int64_t result = 0;
            do {
                lock.unlock();
                result = read_now(*transfer);
                lock.lock();
            } while (queue_.finish(*transfer, result));
            if (queue_.has_finished()) done_.notify_one();
        }
    }

    void stop() {
        {
            std::lock_guard lock(mutex_);
            stopping_ = true;
            queue_.close();
        }
        work_.notify_all();
        for (std::thread& thread : threads_) thread.join();
    }

    ReaderInfo info_;  // constant after construction

    mutable std::mutex mutex_;  // guards the queue, its transfers between reads, and stopping_
    std::condition_variable work_;
    std::condition_variable done_;
    RequestQueue queue_;
    bool stopping_ = false;

    std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Reader> make_threads_reader(const ReaderOptions& options, std::vector<std::string> refused) {
    return std::make_unique<ThreadsReader>(options, std::move(refused));
}

}  // namespace moestro::io
