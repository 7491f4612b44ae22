#include "sim/virtual_source.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moestro::sim {

VirtualSource::VirtualSource(VirtualClock& clock, std::vector<Nanos> took, std::vector<std::size_t> bytes)
    : clock_(clock), took_(std::move(took)), bytes_(std::move(bytes)) {}

void VirtualSource::start(int number, std::byte*, bool urgent) {
    queue_.push_back({number, urgent, clock_.now()});
    counters_.bytes += bytes_[static_cast<std::size_t>(number)];
    ++counters_.reads;
    if (!serving_) serve_next();
}

// The link turns to what somebody waits for, else to the oldest.
void VirtualSource::serve_next() {
    if (queue_.empty()) return;
    auto next = std::find_if(queue_.begin(), queue_.end(), [](const Wanted& one) { return one.urgent; });
    if (next == queue_.end()) next = queue_.begin();
    const Nanos begin = std::max(free_, next->asked);
    free_ = begin + took(next->number);
    busy_ += took(next->number);
    serving_ = Serving{next->number, free_};
    queue_.erase(next);
}

void VirtualSource::poll(std::vector<store::Arrival>& out) {
    while (serving_ && serving_->until <= clock_.now()) {
        out.push_back({serving_->number, {}});
        serving_.reset();
        serve_next();
    }
}

void VirtualSource::wait(std::vector<store::Arrival>& out) {
    MOESTRO_CHECK(serving_.has_value());
    if (serving_->until > clock_.now()) clock_.advance(serving_->until - clock_.now());
    poll(out);
}

Nanos VirtualSource::backlog() const {
    if (!serving_) return 0;
    Nanos left = std::max<Nanos>(0, serving_->until - clock_.now());
    for (const Wanted& one : queue_)
        if (one.urgent) left += took(one.number);
    return left;
}

}  // namespace moestro::sim
