#include "policy/ring_schedule.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"

namespace moestro::policy {

RingSchedule::RingSchedule(int units, int window, int batch)
    : window_(window), batch_(batch), used_(units), own_(at(units)), here_(at(units)), free_(at(std::max(window, 0))) {
    require(units >= 1, ErrorKind::usage, "a stream needs at least one unit; got ", units);
    require(window >= 1 && batch >= 1 && batch <= window, ErrorKind::usage,
            "a stream needs a window of at least 1 and a batch from 1 to the window; got window ", window, ", batch ",
            batch);
    std::iota(free_.begin(), free_.end(), 0);
}

void RingSchedule::set_own_room(int unit, bool own) {
    MOESTRO_CHECK(!reading(unit));
    std::erase_if(ring_, [&](const Entry& entry) { return entry.load.unit == unit && entry.load.slot == kOwnRoom; });
    own_[at(unit)] = own;
    here_[at(unit)] = false;
}

bool RingSchedule::reading(int unit) const {
    return std::any_of(ring_.begin(), ring_.end(),
                       [unit](const Entry& entry) { return entry.load.unit == unit && !entry.arrived; }) ||
           std::any_of(unwanted_.begin(), unwanted_.end(), [unit](const Load& load) { return load.unit == unit; });
}

// Its room holds it, or will when its read is popped.
bool RingSchedule::waits_in_own_room(int unit) const {
    return std::any_of(ring_.begin(), ring_.end(),
                       [unit](const Entry& entry) { return entry.load.unit == unit && entry.load.slot == kOwnRoom; });
}

void RingSchedule::begin(int used) {
    require(used >= 0 && at(used) <= own_.size(), ErrorKind::usage, "a pass uses at most the stream's ", own_.size(),
            " units; got ", used);
    used_ = used;
    if (next_ >= used_) next_ = 0;
}

// From next_ on, in the order of passes: the first that has to be read. Nothing when all of a pass stay.
std::optional<int> RingSchedule::next_unit() const {
    for (int i = 0; i < used_; ++i) {
        const int unit = (next_ + i) % used_;
        if (!stays(unit)) return unit;
    }
    return std::nullopt;
}

std::optional<RingSchedule::Load> RingSchedule::next() {
    const std::optional<int> unit = next_unit();
    // Not read twice at a time, and not over what its own room holds already.
    if (!unit || reading(*unit) || waits_in_own_room(*unit)) return std::nullopt;
    Load load{*unit, kOwnRoom, ++generation_};
    if (!own_room(*unit)) {
        if (filling_ == 0 && (ring_.empty() || free_slots() >= batch_))
            filling_ = ring_.empty() ? free_slots() : batch_;
        if (filling_ == 0 || free_.empty()) return std::nullopt;
        --filling_;
        load.slot = free_.front();
        free_.erase(free_.begin());
    }
    ring_.push_back({load});
    next_ = (*unit + 1) % used_;
    return load;
}

bool RingSchedule::arrived(const Load& load, bool good) {
    const auto same = [&](const Load& other) { return other.generation == load.generation; };
    const auto entry = std::find_if(ring_.begin(), ring_.end(), [&](const Entry& one) { return same(one.load); });
    if (entry != ring_.end()) {
        MOESTRO_CHECK(!entry->arrived && entry->load.slot == load.slot);
        entry->arrived = true;
        entry->good = good;
        return true;
    }
    const auto dropped = std::find_if(unwanted_.begin(), unwanted_.end(), same);
    MOESTRO_CHECK(dropped != unwanted_.end());
    unwanted_.erase(dropped);
    settle(load, good);
    return false;
}

RingSchedule::Stage RingSchedule::look(int unit) {
    MOESTRO_CHECK(unit >= 0 && unit < used_);
    if (stays(unit)) return Stage::ready;
    while (!ring_.empty() && ring_.front().load.unit != unit) drop_front();
    if (ring_.empty()) {
        next_ = unit;
        filling_ = 0;
        return Stage::missing;
    }
    return ring_.front().arrived ? Stage::ready : Stage::loading;
}

void RingSchedule::drop_front() {
    const Entry entry = ring_.front();
    ring_.pop_front();
    if (entry.arrived)
        settle(entry.load, entry.good);
    else
        unwanted_.push_back(entry.load);
}

// A read that is over leaves the ring.
void RingSchedule::settle(const Load& load, bool good) {
    if (load.slot == kOwnRoom)
        here_[at(load.unit)] = good;
    else
        free_.push_back(load.slot);
}

void RingSchedule::pop(int unit) {
    if (stays(unit)) return;
    MOESTRO_CHECK(!ring_.empty() && ring_.front().load.unit == unit && ring_.front().arrived);
    drop_front();
}

void RingSchedule::check_integrity() const {
    std::vector<int> slots = free_;
    for (const Entry& entry : ring_) slots.push_back(entry.load.slot);
    for (const Load& load : unwanted_) slots.push_back(load.slot);
    std::erase(slots, kOwnRoom);
    std::sort(slots.begin(), slots.end());
    MOESTRO_CHECK(slots.size() == at(window_));
    for (int slot = 0; slot < window_; ++slot) MOESTRO_CHECK(slots[at(slot)] == slot);
}

std::vector<int> spread_order(int count) {
    // Numbers by their reversed bits: van der Corput's sequence, on the integers below `count`.
    int bits = 0;
    while ((1 << bits) < count) ++bits;
    std::vector<int> order;
    for (int i = 0; i < 1 << bits; ++i) {
        int reversed = 0;
        for (int bit = 0; bit < bits; ++bit) reversed |= (i >> bit & 1) << (bits - 1 - bit);
        if (reversed < count) order.push_back(reversed);
    }
    return order;
}

}  // namespace moestro::policy
