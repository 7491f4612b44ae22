#include "store/virtual_source.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace moestro::store {

VirtualSource::VirtualSource(std::shared_ptr<VirtualLanes> lanes, int lane, std::vector<Nanos> takes,
                             std::vector<std::size_t> bytes, std::unique_ptr<RecordSource> from, Nanos first)
    : lanes_(std::move(lanes)),
      lane_(lane),
      takes_(std::move(takes)),
      bytes_(std::move(bytes)),
      first_(first),
      from_(std::move(from)),
      self_(std::make_shared<VirtualSource*>(this)) {}

VirtualSource::~VirtualSource() {
    *self_ = nullptr;
}

void VirtualSource::start(int number, std::byte* slot, bool urgent) {
    queue_.push_back({number, slot, urgent});
    counters_.bytes += bytes_[static_cast<std::size_t>(number)];
    ++counters_.reads;
    if (!serving_) serve_next(first_);
}

// The lane turns to what somebody waits for, else to the oldest.
void VirtualSource::serve_next(Nanos more) {
    serving_ = false;
    if (queue_.empty()) return;
    auto next = std::find_if(queue_.begin(), queue_.end(), [](const Wanted& one) { return one.urgent; });
    if (next == queue_.end()) next = queue_.begin();
    const Wanted wanted = *next;
    queue_.erase(next);
    const Nanos takes = takes_[static_cast<std::size_t>(wanted.number)] + more;
    busy_ += takes;
    serving_ = true;
    lanes_->submit(lane_, takes, {}, [self = self_, wanted] {
        if (*self) (*self)->served(wanted);
    });
}

void VirtualSource::served(const Wanted& wanted) {
    if (from_) {
        from_->start(wanted.number, wanted.slot, wanted.urgent);
        while (from_->in_flight() > 0) from_->wait(arrived_);
    } else {
        arrived_.push_back({wanted.number, {}});
    }
    serve_next(0);
}

void VirtualSource::poll(std::vector<Arrival>& out) {
    std::move(arrived_.begin(), arrived_.end(), std::back_inserter(out));
    arrived_.clear();
}

void VirtualSource::wait(std::vector<Arrival>& out) {
    while (arrived_.empty()) MOESTRO_CHECK(lanes_->step());
    poll(out);
}

std::vector<Nanos> times_by_record(const ExpertTable& table, const std::vector<policy::LaneCosts>& costs,
                                   double policy::LaneCosts::*cost) {
    std::vector<Nanos> times;
    for (int number = 0; number < table.experts(); ++number)
        times.push_back(static_cast<Nanos>(costs[table.position(table.id(number).layer)].*cost));
    return times;
}

std::vector<std::size_t> sizes_by_record(const ExpertTable& table) {
    std::vector<std::size_t> bytes;
    for (int number = 0; number < table.experts(); ++number)
        bytes.push_back(table.sizes()[table.position(table.id(number).layer)].record_bytes);
    return bytes;
}

}  // namespace moestro::store
