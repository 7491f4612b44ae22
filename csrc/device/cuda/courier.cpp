#include "device/cuda/courier.h"

#include <algorithm>
#include <cstring>

#include "base/types.h"
#include "device/cuda/errors.h"

namespace moestro::device::cuda {

namespace {

constexpr std::size_t kFirstRing = 64 << 10;

}  // namespace

Courier::Sent Courier::put(const void* data, std::size_t bytes, cudaStream_t stream) {
    if (kept_) return put_for_good(data, bytes);
    const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), Arena::kAlignment);
    if (!find_room(size)) return {};
    const std::size_t at = head_ % ring_->size();
    head_ += size;
    const Sent sent{ring_->host.data() + at, ring_->device.data() + at};
    std::memcpy(sent.host, data, bytes);
    check(cudaMemcpyAsync(sent.device, sent.host, bytes, cudaMemcpyDefault, stream), "send a launch's arguments");
    return sent;
}

Courier::Sent Courier::put_for_good(const void* data, std::size_t bytes) {
    Buffer made = world_.allocate_work(bytes);
    if (!made.data()) return {};
    if (!side_) check(cudaStreamCreateWithFlags(&side_, cudaStreamNonBlocking), "make a stream");
    check(cudaMemcpyAsync(made.data(), data, bytes, cudaMemcpyDefault, side_), "send a launch's arguments");
    check(cudaStreamSynchronize(side_), "send a launch's arguments");
    kept_->push_back(std::move(made));
    return {nullptr, kept_->back().data()};
}

Courier::~Courier() {
    if (side_) cudaStreamDestroy(side_);
}

void Courier::close(const std::shared_ptr<Done>& done) {
    for (auto& ring : outgrown_) done->keeps.push_back(std::move(ring));
    outgrown_.clear();
    if (!ring_ || head_ == closed_) return;
    done->keeps.push_back(ring_);
    parts_.push_back({done, head_});
    closed_ = head_;
}

// A piece in a row: at the end of the ring, or at its beginning once more.
bool Courier::find_room(std::size_t bytes) {
    if (!ring_ || bytes > ring_->size()) return grow(bytes);
    const std::size_t left = ring_->size() - head_ % ring_->size();
    const std::size_t skipped = bytes <= left ? 0 : left;
    while (head_ + skipped + bytes - tail_ > ring_->size()) {
        if (parts_.empty()) return grow(bytes);
        parts_.front().done->wait();
        tail_ = parts_.front().end;
        parts_.pop_front();
    }
    head_ += skipped;
    return true;
}

bool Courier::grow(std::size_t bytes) {
    auto made = std::make_shared<Ring>();
    const std::size_t size = std::max({kFirstRing, 2 * bytes, ring_ ? 2 * ring_->size() : 0});
    made->device = world_.allocate_work(size);
    if (!made->device.data()) return false;
    made->host = world_.allocate_host(size);
    if (ring_) outgrown_.push_back(std::move(ring_));
    ring_ = std::move(made);
    head_ = tail_ = closed_ = 0;
    parts_.clear();  // they keep their rings themselves
    return true;
}

}  // namespace moestro::device::cuda
