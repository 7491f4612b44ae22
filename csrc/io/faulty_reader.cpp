#include "io/faulty_reader.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/error.h"

namespace moestro::io {

FaultyReader::FaultyReader(std::unique_ptr<Reader> inner, FaultPlan plan, Nanos patience)
    : plan_(std::move(plan)), patience_(patience), inner_(std::move(inner)) {}

void FaultyReader::submit(std::span<const ReadRequest> requests) {
    {
        std::lock_guard lock(mutex_);
        std::vector<ReadRequest> numbered(requests.begin(), requests.end());
        for (std::size_t i = 0; i < numbered.size(); ++i) numbered[i].tag = submitted_ + 1 + i;
        inner_->submit(numbered);  // takes all or throws; nobody can look for a completion while the mutex is held
        for (const ReadRequest& request : requests) reads_[++submitted_] = {.request = request};
    }
    changed_.notify_all();
}

void FaultyReader::poll(std::vector<Completion>& out) {
    std::vector<Completion> arrived;
    inner_->poll(arrived);
    receive(arrived);
    deliver(out);
}

void FaultyReader::wait(std::vector<Completion>& out) {
    while (deliver(out) == 0 && in_flight() > 0) {
        if (inner_->in_flight() == 0) {
            wait_for_gate();
            continue;
        }
        std::vector<Completion> arrived;
        inner_->wait(arrived);
        receive(arrived);
    }
}

void FaultyReader::wait_for_gate() {
    std::unique_lock lock(mutex_);
    const bool moved = changed_.wait_for(lock, std::chrono::nanoseconds(patience_), [this] {
        return open_ || credit_ > 0 || inner_->in_flight() > 0 || reads_.empty();
    });
    require(moved, ErrorKind::internal, "nobody opened the gate in front of ", held_.size(), " finished reads for ",
            patience_ / 1'000'000, " ms");
}

void FaultyReader::receive(const std::vector<Completion>& arrived) {
    std::lock_guard lock(mutex_);
    for (Completion completion : arrived) {
        Read& read = reads_.at(completion.tag);
        read.arrived = true;
        inject(completion.tag, read.request, completion);
        held_.push_back(completion);
    }
}

void FaultyReader::inject(std::uint64_t number, const ReadRequest& request, Completion& completion) const {
    for (const FaultPlan::Fault& fault : plan_.faults) {
        if (fault.read != number || completion.error != 0) continue;
        if (fault.kind == FaultPlan::Fault::Kind::flip) {
            if (completion.bytes > 0) request.destination[completion.bytes / 2] ^= std::byte{1};
            continue;
        }
        completion.error = fault.error;
        completion.bytes = fault.kind == FaultPlan::Fault::Kind::shorten ? completion.bytes / 2 : 0;
        const auto missing = request.destination.subspan(completion.bytes);
        std::fill(missing.begin(), missing.end(), std::byte{0xff});
    }
}

bool FaultyReader::gated(std::uint64_t number) const {
    return !open_ && plan_.gate_from && number >= *plan_.gate_from;
}

std::size_t FaultyReader::deliver(std::vector<Completion>& out) {
    std::lock_guard lock(mutex_);
    std::size_t delivered = 0;
    for (auto completion = held_.begin(); completion != held_.end();) {
        const std::uint64_t number = completion->tag;
        if (gated(number)) {
            if (credit_ == 0) {
                ++completion;
                continue;
            }
            --credit_;
        }
        completion->tag = reads_.at(number).request.tag;
        out.push_back(*completion);
        ++delivered;
        reads_.erase(number);
        completion = held_.erase(completion);
    }
    return delivered;
}

std::size_t FaultyReader::in_flight() const {
    std::lock_guard lock(mutex_);
    return reads_.size();
}

std::size_t FaultyReader::cancel(std::uint64_t tag) {
    std::size_t cancelled = 0;
    {
        std::lock_guard lock(mutex_);
        for (auto read = reads_.begin(); read != reads_.end();) {
            const bool gone =
                read->second.request.tag == tag && !read->second.arrived && inner_->cancel(read->first) > 0;
            cancelled += gone;
            read = gone ? reads_.erase(read) : std::next(read);
        }
    }
    changed_.notify_all();
    return cancelled;
}

ReaderInfo FaultyReader::info() const {
    ReaderInfo info = inner_->info();
    info.refused.push_back(text("an undisturbed reader: faults are injected (", plan_.words, ")"));
    return info;
}

void FaultyReader::release(std::size_t completions) {
    {
        std::lock_guard lock(mutex_);
        credit_ += completions;
    }
    changed_.notify_all();
}

void FaultyReader::open_gate() {
    {
        std::lock_guard lock(mutex_);
        open_ = true;
    }
    changed_.notify_all();
}

std::size_t FaultyReader::held() const {
    std::lock_guard lock(mutex_);
    return held_.size();
}

}  // namespace moestro::io
