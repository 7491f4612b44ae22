#include "residency/link_source.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/error.h"

namespace moestro::residency {

namespace {

// Copies nobody waits for, handed to the link at a time: enough to keep it busy, and little to wait behind.
constexpr std::size_t kCopiesAhead = 2;

Error of(ExpertId id, ErrorKind kind, const char* what) {
    return {kind, text("layer ", id.layer, ", expert ", id.expert, ": ", what)};
}

}  // namespace

LinkSource::LinkSource(ExpertCache& host, std::shared_ptr<const store::ExpertTable> table,
                       std::unique_ptr<device::Stream> stream, std::vector<Nanos> takes)
    : host_(host), table_(std::move(table)), stream_(std::move(stream)), takes_(std::move(takes)) {}

LinkSource::~LinkSource() {
    stream_->finish();
}

void LinkSource::start(int number, std::byte* slot, bool urgent) {
    wanted_.push_back({number, slot, urgent, {}});
}

void LinkSource::flush() {
    for (Wanted& one : wanted_)
        if (one.urgent) pin(one);
    for (Wanted& one : wanted_)
        if (!one.urgent) pin(one);
    host_.flush();
    copy_some(true);
    copy_some(false);
}

void LinkSource::pin(Wanted& wanted) {
    if (wanted.pin) return;
    const ExpertId id = table_->id(wanted.number);
    if (host_.state(id) == State::absent && !host_.start_load(id, wanted.urgent)) return;
    wanted.pin = host_.pin(id);
}

void LinkSource::copy_some(bool urgent) {
    for (auto one = wanted_.begin(); one != wanted_.end();) {
        const bool mine = one->urgent == urgent && one->pin && one->pin.state() != State::loading;
        if (!mine || (!urgent && copying_.size() >= kCopiesAhead)) {
            ++one;
            continue;
        }
        if (one->pin.state() == State::failed)
            failed_.push_back({one->number, one->pin.error()});
        else
            copy(*one);
        one = wanted_.erase(one);
    }
}

void LinkSource::copy(Wanted& wanted) {
    const std::size_t bytes = table_->sizes()[table_->position(table_->id(wanted.number).layer)].record_bytes;
    const Nanos takes = takes_[static_cast<std::size_t>(wanted.number)];
    device::Event over = stream_->copy(wanted.slot, wanted.pin.data(), bytes, takes);
    copying_.push_back({wanted.number, std::move(wanted.pin), std::move(over)});
    counters_.bytes += bytes;
    ++counters_.reads;
    busy_ += takes;
}

void LinkSource::poll(std::vector<store::Arrival>& out) {
    host_.poll();
    take_finished(out);
    flush();
    std::move(failed_.begin(), failed_.end(), std::back_inserter(out));
    failed_.clear();
}

void LinkSource::take_finished(std::vector<store::Arrival>& out) {
    while (!copying_.empty() && copying_.front().over.over()) {
        Copying done = std::move(copying_.front());
        copying_.pop_front();
        const ExpertId id = table_->id(done.number);
        store::Arrival arrival{done.number, {}};
        try {
            done.over.check();
        } catch (const Error& error) {
            arrival.error = of(id, error.kind(), error.what());
        }
        out.push_back(std::move(arrival));
    }
}

void LinkSource::wait(std::vector<store::Arrival>& out) {
    poll(out);
    if (!out.empty()) return;
    if (!copying_.empty())
        copying_.front().over.state()->wait();
    else if (host_.loading() > 0)
        host_.wait();
    else
        give_up(out);
    poll(out);
}

bool LinkSource::stuck() const {
    const auto has_no_pin = [](const Wanted& one) { return !one.pin; };
    return !wanted_.empty() && copying_.empty() && std::all_of(wanted_.begin(), wanted_.end(), has_no_pin);
}

// Nothing will make room: better an error than to wait forever.
void LinkSource::give_up(std::vector<store::Arrival>& out) {
    for (const Wanted& one : wanted_)
        out.push_back({one.number, of(table_->id(one.number), ErrorKind::usage,
                                      "cannot be read on its way to the device: every expert slot in host memory is "
                                      "held. Release an expert first, or give more host_memory")});
    wanted_.clear();
}

}  // namespace moestro::residency
