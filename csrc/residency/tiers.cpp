#include "residency/tiers.h"

#include "base/error.h"

namespace moestro::residency {

Copies parse_copies(std::string_view name) {
    require(name == "inclusive" || name == "exclusive", ErrorKind::usage,
            "copies: expected inclusive or exclusive, got \"", name, "\"");
    return name == "inclusive" ? Copies::inclusive : Copies::exclusive;
}

Tiers::Tiers(ExpertCache& host, DeviceTier device, std::shared_ptr<VirtualLanes> lanes)
    : host_(host), device_(std::move(device)), lanes_(std::move(lanes)) {
    host_.set_given_up_first({});
    if (!has_device()) return;
    device_.cache->set_given_up_first({});
    if (device_.copies == Copies::inclusive) return;
    ExpertCache& other = *device_.cache;
    host_.set_given_up_first([&other](ExpertId id) { return other.state(id) == State::resident; });
    other.set_given_up_first([&host](ExpertId id) { return host.state(id) == State::resident; });
}

bool Tiers::sending_loses(const store::ExpertTable& table) const {
    if (device_.copies == Copies::inclusive || !device_.cache->full()) return false;
    for (int number = 0; number < table.experts(); ++number) {
        const ExpertId id = table.id(number);
        if (device_.cache->can_evict(id) && host_copy(id)) return false;
    }
    return true;
}

Place Tiers::place(ExpertId id) const {
    return residency::place(host_.state(id), has_device() ? device_.cache->state(id) : State::absent);
}

void Tiers::poll() const {
    host_.poll();
    if (has_device()) device_.cache->poll();
}

bool Tiers::wait() const {
    if (has_device()) {
        const int before = host_.loading() + device_.cache->loading();
        device_.cache
            ->poll();  // what was stuck may find room now, or fail at once; and what the host reads may be there
        if (host_.loading() + device_.cache->loading() < before) return true;
    }
    bool any = lanes_ ? lanes_->step() : has_device() && device_.device->wait_any();
    if (!any && !lanes_ && host_.loading() > 0) {
        host_.wait();
        any = true;
    }
    if (any) poll();
    return any;
}

void Tiers::check_integrity() const {
    host_.check_integrity();
    if (has_device()) device_.cache->check_integrity();
}

}  // namespace moestro::residency
