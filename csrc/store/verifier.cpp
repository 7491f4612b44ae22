#include "store/verifier.h"

#include <pthread.h>

#include "base/checksum.h"
#include "base/error.h"

namespace moestro::store {

Verifier::Verifier() : thread_([this] { serve(); }) {
    ::pthread_setname_np(thread_.native_handle(), "moestro-verify");
}

Verifier::~Verifier() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    work_.notify_one();
    thread_.join();
}

void Verifier::push(std::size_t tag, std::span<const std::byte> bytes) {
    {
        std::lock_guard lock(mutex_);
        tasks_.push_back({tag, bytes});
    }
    ++in_flight_;
    work_.notify_one();
}

void Verifier::poll(std::vector<Sum>& out) {
    if (in_flight_ == 0) return;
    std::lock_guard lock(mutex_);
    take(out);
}

void Verifier::wait(std::vector<Sum>& out) {
    MOESTRO_CHECK(in_flight_ > 0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return !sums_.empty(); });
    take(out);
}

void Verifier::take(std::vector<Sum>& out) {
    in_flight_ -= sums_.size();
    out.insert(out.end(), sums_.begin(), sums_.end());
    sums_.clear();
}

void Verifier::serve() {
    std::unique_lock lock(mutex_);
    for (;;) {
        work_.wait(lock, [this] { return stopping_ || !tasks_.empty(); });
        if (stopping_) return;
        const Task task = tasks_.front();
        tasks_.pop_front();
        lock.unlock();
        const std::uint64_t sum = xxh64(task.bytes);
        lock.lock();
        sums_.push_back({task.tag, sum});
        done_.notify_one();
    }
}

}  // namespace moestro::store
