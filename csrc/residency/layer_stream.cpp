#include "residency/layer_stream.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/bytes.h"

namespace moestro::residency {

namespace {

std::vector<std::size_t> sizes(const store::TrunkUnits& units) {
    std::vector<std::size_t> all;
    for (int unit = 0; unit < units.count(); ++unit) all.push_back(units.bytes(unit));
    return all;
}

}  // namespace

std::vector<bool> LayerStream::keep(const std::vector<std::size_t>& unit_bytes, std::size_t keep_bytes) {
    std::vector<bool> kept(unit_bytes.size());
    for (const int unit : policy::spread_order(static_cast<int>(unit_bytes.size()))) {
        const std::size_t bytes = unit_bytes[static_cast<std::size_t>(unit)];
        if (bytes > keep_bytes) continue;
        kept[static_cast<std::size_t>(unit)] = true;
        keep_bytes -= bytes;
    }
    return kept;
}

LayerStream::LayerStream(std::shared_ptr<store::TrunkUnits> units, std::shared_ptr<memory::Ledger> ledger,
                         const StreamOptions& options, StreamReading reading, const Clock& clock)
    : units_(std::move(units)),
      ledger_(std::move(ledger)),
      clock_(clock),
      slot_bytes_(units_->largest()),
      keep_bytes_(options.keep_bytes),
      order_(policy::spread_order(units_->count())),
      reservation_(ledger_, "layer stream", slot_bytes_ * static_cast<std::size_t>(std::max(options.window, 0))),
      slots_(reservation_.bytes(), true),
      schedule_(units_->count(), options.window, options.batch),
      rooms_(static_cast<std::size_t>(units_->count())),
      submitted_(rooms_.size()),
      loading_(rooms_.size()),
      reading_(std::move(reading)) {
    const std::vector<bool> kept = keep(sizes(*units_), options.keep_bytes);
    for (int unit = 0; unit < units_->count(); ++unit)
        if (kept[static_cast<std::size_t>(unit)]) give_room(unit);
    pump_ = std::thread([this] { pump(); });
    ::pthread_setname_np(pump_.native_handle(), "moestro-stream");
}

LayerStream::~LayerStream() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    work_.notify_all();
    pump_.join();
    for (int unit = 0; unit < units_->count(); ++unit) units_->place(unit, nullptr);
}

void LayerStream::give_room(int unit) {
    Room& room = rooms_[static_cast<std::size_t>(unit)];
    room.reservation = memory::Reservation(ledger_, "trunk", units_->bytes(unit));
    room.memory = PageBuffer(units_->bytes(unit), true);
    schedule_.set_own_room(unit, true);
}

std::byte* LayerStream::address(const Load& load) const {
    if (load.slot == policy::kOwnRoom) return rooms_[static_cast<std::size_t>(load.unit)].memory.data();
    return slots_.data() + static_cast<std::size_t>(load.slot) * slot_bytes_;
}

// ---- the step loop's side -------------------------------------------------------------------------------------------

void LayerStream::begin(int used) {
    std::lock_guard lock(mutex_);
    schedule_.begin(used);
    work_.notify_one();
}

void LayerStream::hold(int unit) {
    using Stage = policy::RingSchedule::Stage;
    require(held_ < 0, ErrorKind::usage, "unit ", held_, " is held: release it before the next one");
    require(unit >= 0 && unit < units(), ErrorKind::usage, "there is no unit ", unit, " of ", units());
    std::unique_lock lock(mutex_);
    require(unit < schedule_.used(), ErrorKind::usage, "this pass uses units below ", schedule_.used(), "; unit ", unit,
            " is none of them");
    ++counters_.used;
    const bool waits = schedule_.look(unit) != Stage::ready;
    counters_.waited += waits;
    const Nanos begin = waits ? clock_.now() : 0;
    while (schedule_.look(unit) != Stage::ready) wait_for_pump(lock);
    if (waits) {
        const Nanos end = clock_.now();
        counters_.stall_ns += end - begin;
        if (trace_)
            trace_->add({.activity = Activity::stall, .item = unit, .submitted = begin, .started = begin, .done = end});
    }
    take(unit);
}

void LayerStream::wait_for_pump(std::unique_lock<std::mutex>& lock) {
    if (broken_) std::rethrow_exception(broken_);
    work_.notify_one();
    changed_.wait(lock);
}

// mutex held; the unit is there, or could not be read.
void LayerStream::take(int unit) {
    const Load load = schedule_.stays(unit) ? Load{unit, policy::kOwnRoom, 0} : schedule_.front();
    if (const std::optional<Error> error = take_error(load)) {
        schedule_.pop(unit);
        work_.notify_one();
        throw *error;
    }
    held_ = unit;
    units_->place(unit, address(load));
}

std::optional<Error> LayerStream::take_error(const Load& load) {
    // Of reads before this one nobody will ask.
    if (load.generation > 0)
        std::erase_if(failed_, [&](const auto& one) { return one.first.generation < load.generation; });
    const auto found = std::find_if(failed_.begin(), failed_.end(),
                                    [&](const auto& one) { return one.first.generation == load.generation; });
    if (found == failed_.end()) return std::nullopt;
    const Error error = std::move(found->second);
    failed_.erase(found);
    return error;
}

void LayerStream::release(int unit) {
    require(held_ == unit && unit >= 0, ErrorKind::usage, "unit ", unit, " is not held");
    units_->place(unit, nullptr);
    held_ = -1;
    std::lock_guard lock(mutex_);
    schedule_.pop(unit);
    work_.notify_one();
}

void LayerStream::release_all() {
    if (held_ >= 0) release(held_);
}

// ---- memory that others may have ------------------------------------------------------------------------------------

std::size_t LayerStream::can_lend() const {
    std::lock_guard lock(mutex_);
    std::size_t bytes = 0;
    for (int unit = 0; unit < units_->count(); ++unit)
        if (schedule_.own_room(unit) && unit != held_) bytes += units_->bytes(unit);
    return bytes;
}

bool LayerStream::lend(std::size_t bytes) {
    if (bytes > can_lend()) return false;
    std::unique_lock lock(mutex_);
    for (auto unit = order_.rbegin(); unit != order_.rend() && bytes > 0; ++unit) {
        if (!schedule_.own_room(*unit) || *unit == held_) continue;
        while (schedule_.reading(*unit)) wait_for_pump(lock);
        schedule_.set_own_room(*unit, false);
        rooms_[static_cast<std::size_t>(*unit)] = {};
        bytes -= std::min(bytes, units_->bytes(*unit));
    }
    return true;
}

void LayerStream::grow() {
    std::lock_guard lock(mutex_);
    std::size_t room = keep_bytes_;
    for (const Room& taken : rooms_) room -= taken.reservation.bytes();
    for (const int unit : order_) {
        const std::size_t bytes = units_->bytes(unit);
        const bool settled = unit != held_ && !schedule_.reading(unit);
        if (schedule_.own_room(unit) || !settled || bytes > room || bytes > ledger_->free()) continue;
        give_room(unit);
        room -= bytes;
    }
}

int LayerStream::kept() const {
    std::lock_guard lock(mutex_);
    int count = 0;
    for (int unit = 0; unit < units_->count(); ++unit) count += schedule_.own_room(unit);
    return count;
}

// ---- the pump: the only thread that touches the source --------------------------------------------------------------

void LayerStream::pump() {
    std::unique_lock lock(mutex_);
    std::vector<store::Arrival> arrivals;
    try {
        while (!stopping_) {
            start_reads();
            if (in_flight_ == 0) {
                work_.wait(lock);
                continue;
            }
            lock.unlock();
            arrivals.clear();
            reading_.source->wait(arrivals);  // verifies and interleaves, while others compute
            const store::SourceCounters read = reading_.source->counters();
            lock.lock();
            counters_.bytes = read.bytes;
            counters_.reads = read.reads;
            counters_.arrival_ns = read.arrival_ns;
            take_in(arrivals);
            if (!arrivals.empty()) changed_.notify_all();
        }
    } catch (...) {
        if (!lock.owns_lock()) lock.lock();
        broken_ = std::current_exception();
        changed_.notify_all();
    }
}

void LayerStream::start_reads() {
    bool any = false;
    while (const std::optional<Load> load = schedule_.next()) {
        const auto number = static_cast<std::size_t>(load->unit);
        reading_.source->start(load->unit, address(*load), false);
        loading_[number] = *load;
        submitted_[number] = clock_.now();
        if (in_flight_++ == 0) busy_since_ = submitted_[number];
        any = true;
    }
    if (any) reading_.source->flush();
}

void LayerStream::take_in(std::vector<store::Arrival>& arrivals) {
    const Nanos now = clock_.now();
    for (store::Arrival& arrival : arrivals) {
        record(arrival.number, now);
        Load& load = loading_[static_cast<std::size_t>(arrival.number)];
        const bool wanted = schedule_.arrived(load, !arrival.error);
        // Moved: copies of an Error share their text, and this thread would drop its half beside the one that takes it.
        if (arrival.error && wanted) failed_.emplace_back(load, std::move(*arrival.error));
        load = {};
        if (--in_flight_ == 0) counters_.read_busy_ns += now - busy_since_;
    }
}

void LayerStream::record(int unit, Nanos now) {
    const Nanos submitted = submitted_[static_cast<std::size_t>(unit)], started = lane_.done(submitted, now);
    if (trace_)
        trace_->add({.lane = Lane::stream,
                     .activity = Activity::read,
                     .item = unit,
                     .count = 1,
                     .bytes = units_->bytes(unit),
                     .submitted = submitted,
                     .started = started,
                     .done = now});
}

void LayerStream::set_trace(TraceRing* trace) {
    std::lock_guard lock(mutex_);
    trace_ = trace;
}

StreamCounters LayerStream::counters() const {
    std::lock_guard lock(mutex_);
    StreamCounters now = counters_;
    now.read_queued_ns = lane_.queued;
    if (in_flight_ > 0) now.read_busy_ns += clock_.now() - busy_since_;
    return now;
}

void LayerStream::check_integrity() const {
    std::lock_guard lock(mutex_);
    schedule_.check_integrity();
    for (int unit = 0; unit < units_->count(); ++unit) {
        const Room& room = rooms_[static_cast<std::size_t>(unit)];
        MOESTRO_CHECK(schedule_.own_room(unit) == (room.memory.data() != nullptr));
        MOESTRO_CHECK(room.reservation.bytes() == (schedule_.own_room(unit) ? units_->bytes(unit) : 0));
    }
}

}  // namespace moestro::residency
