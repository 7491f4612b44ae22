#include "io/request_queue.h"

#include <algorithm>
#include <cerrno>

#include "base/error.h"
#include "base/types.h"

namespace moestro::io {

namespace {

// A device that only ever answers "try again" must become an error some day, not a hang.
constexpr int kRetriesWithoutProgress = 1000;

// ECANCELED: io_uring drops work when the thread that submitted it ends; nobody here asks for it.
bool worth_retrying(std::int64_t result) {
    return result == -EINTR || result == -EAGAIN || result == -ECANCELED;
}

void check(const ReadRequest& read) {
    require(read.file != nullptr, ErrorKind::usage, "a read request needs a file");
    const std::size_t unit = read.file->alignment();
    const auto address = reinterpret_cast<std::uintptr_t>(read.destination.data());
    require(read.offset % unit == 0 && read.destination.size() % unit == 0 && address % unit == 0, ErrorKind::usage,
            "a direct read of ", read.file->path(), " needs offset, length and destination to be multiples of ", unit,
            " bytes; got offset ", read.offset, ", length ", read.destination.size(), ", destination address ",
            address % unit, " past one");
}

}  // namespace

RequestQueue::RequestQueue(int depth, std::size_t max_read_bytes)
    : max_read_bytes_(max_read_bytes), transfers_(static_cast<std::size_t>(depth)) {
    free_.reserve(transfers_.size());
    for (Transfer& transfer : transfers_) free_.push_back(&transfer);
}

void RequestQueue::push(std::span<const ReadRequest> requests) {
    std::for_each(requests.begin(), requests.end(), check);
    for (const ReadRequest& read : requests)
        (read.urgent ? urgent_ : normal_).push_back({.read = read, .good = read.destination.size()});
}

Transfer* RequestQueue::next() {
    if (closed_ || free_.empty()) return nullptr;
    Requests& from = urgent_.empty() ? normal_ : urgent_;
    if (from.empty()) return nullptr;

    Transfer& transfer = *free_.back();
    free_.pop_back();
    const Requests::iterator request = from.begin();
    const std::size_t end = std::min(request->cut + max_read_bytes_, request->read.destination.size());
    transfer = {.request = request, .begin = request->cut, .end = end, .reached = request->cut};
    aim(transfer);
    request->cut = end;
    ++request->transfers;
    if (end == request->read.destination.size()) cut_.splice(cut_.end(), from, request);
    return &transfer;
}

// Points the transfer at what is missing. A direct file takes aligned reads only, so the bytes of a started unit are
// read a second time.
void RequestQueue::aim(Transfer& transfer) {
    const ReadRequest& read = transfer.request->read;
    const std::size_t from = round_down(transfer.reached, read.file->alignment());
    transfer.file = read.file.get();
    transfer.offset = read.offset + from;
    transfer.destination = read.destination.data() + from;
    transfer.length = transfer.end - from;
}

bool RequestQueue::finish(Transfer& transfer, std::int64_t result) {
    if (worth_retrying(result) && !closed_ && ++transfer.retries < kRetriesWithoutProgress) return true;
    if (result < 0) {
        settle(transfer, static_cast<int>(-result));
        return false;
    }
    const ReadRequest& read = transfer.request->read;
    const std::size_t reached = transfer.offset - read.offset + static_cast<std::size_t>(result);
    const bool advanced = reached > transfer.reached;
    transfer.reached = std::max(transfer.reached, reached);
    const bool file_ends = !advanced || read.offset + reached >= read.file->size();
    if (reached >= transfer.end || file_ends || closed_) {
        settle(transfer, 0);
        return false;
    }
    transfer.retries = 0;
    aim(transfer);
    return true;
}

void RequestQueue::settle(Transfer& transfer, int error) {
    const Requests::iterator request = transfer.request;
    free_.push_back(&transfer);
    // The first gap counts: what a later transfer brought lies behind it.
    const bool stopped = error != 0 || transfer.reached < transfer.end;
    if (stopped && transfer.reached <= request->good) {
        request->good = transfer.reached;
        request->error = error;
    }
    if (--request->transfers == 0 && request->cut == request->read.destination.size()) complete(request);
}

void RequestQueue::complete(Requests::iterator request) {
    finished_.push_back({.tag = request->read.tag, .bytes = request->good, .error = request->error});
    cut_.erase(request);
}

void RequestQueue::take_finished(std::vector<Completion>& out) {
    out.insert(out.end(), finished_.begin(), finished_.end());
    finished_.clear();
}

std::size_t RequestQueue::cancel(std::uint64_t tag) {
    const auto untouched = [tag](const QueuedRequest& request) { return request.read.tag == tag && request.cut == 0; };
    return urgent_.remove_if(untouched) + normal_.remove_if(untouched);
}

void RequestQueue::close() {
    closed_ = true;
}

}  // namespace moestro::io
