#include "base/virtual_lanes.h"

#include <algorithm>

#include "base/error.h"

namespace moestro {

VirtualLanes::VirtualLanes(int lanes)
    : clock_(std::make_shared<VirtualClock>()), free_(static_cast<std::size_t>(lanes)) {}

VirtualLanes::Operation VirtualLanes::submit(int lane, Nanos takes, std::span<const Operation> after,
                                             std::function<void()> body) {
    Nanos& free = free_.at(static_cast<std::size_t>(lane));
    Nanos begin = std::max(free, now());
    for (const Operation one : after) {
        const auto known = pending_.find(one);
        if (known != pending_.end()) begin = std::max(begin, known->second.end);
    }
    free = begin + std::max<Nanos>(0, takes);
    const Operation made = ++last_;
    queue_.emplace(free, made);
    pending_.emplace(made, Pending{free, std::move(body)});
    return made;
}

void VirtualLanes::end_next() {
    const auto [end, operation] = *queue_.begin();
    queue_.erase(queue_.begin());
    if (end > now()) clock_->advance(end - now());
    const std::function<void()> body = std::move(pending_.extract(operation).mapped().body);
    if (body) body();
}

void VirtualLanes::advance(Nanos by) {
    const Nanos until = now() + std::max<Nanos>(0, by);
    while (!queue_.empty() && queue_.begin()->first <= until) end_next();
    if (until > now()) clock_->advance(until - now());
}

bool VirtualLanes::step() {
    if (queue_.empty()) return false;
    end_next();
    return true;
}

void VirtualLanes::finish(Operation operation) {
    while (!over(operation)) MOESTRO_CHECK(step());
}

}  // namespace moestro
