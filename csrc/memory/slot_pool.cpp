#include "memory/slot_pool.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/types.h"

namespace moestro::memory {

SlotPool::SlotPool(std::shared_ptr<Ledger> ledger, std::vector<SlotClass> classes, std::size_t limit, int max_slots,
                   std::unique_ptr<SlotMemory> memory)
    : max_slots_(max_slots), memory_(std::move(memory)) {
    reservation_ = Reservation(std::move(ledger), "expert slots", limit);
    for (const SlotClass& wanted : classes) {
        MOESTRO_CHECK(wanted.bytes > 0 && wanted.bytes % kPageBytes == 0 && wanted.most >= 0);
        const std::size_t slots = static_cast<std::size_t>(wanted.most);
        Class& made = classes_.emplace_back();
        made.bytes = wanted.bytes;
        memory_->add_class(wanted.bytes, slots);
        made.use.assign(slots, Use::empty);
        made.where.assign(slots, nullptr);
        for (std::size_t index = slots; index-- > 0;) made.empty.push_back(static_cast<int>(index));
        made.spare.reserve(slots);
    }
}

bool SlotPool::over(std::size_t more_bytes, int more_slots, std::size_t limit) const {
    return committed_bytes_ + more_bytes > limit || committed_ > max_slots_ - more_slots;
}

std::optional<Slot> SlotPool::take(int size_class) {
    Class& from = classes_[static_cast<std::size_t>(size_class)];
    if (from.spare.empty() && !commit(size_class)) return std::nullopt;
    const int index = from.spare.back();
    from.spare.pop_back();
    from.use[static_cast<std::size_t>(index)] = Use::taken;
    in_use_bytes_ += from.bytes;
    ++in_use_;
    return Slot{size_class, index, from.where[static_cast<std::size_t>(index)]};
}

// Makes a spare slot, out of what other classes have spare if need be.
bool SlotPool::commit(int size_class) {
    Class& of = classes_[static_cast<std::size_t>(size_class)];
    if (of.empty.empty()) return false;
    while (over(of.bytes, 1, limit()))
        if (!decommit_one(size_class)) return false;
    const int index = of.empty.back();
    std::byte* const data = memory_->commit(size_class, index);
    if (!data) {
        MOESTRO_CHECK(reservation_.try_resize(committed_bytes_));
        return false;
    }
    of.where[static_cast<std::size_t>(index)] = data;
    of.use[static_cast<std::size_t>(index)] = Use::spare;
    of.empty.pop_back();
    of.spare.push_back(index);
    committed_bytes_ += of.bytes;
    ++committed_;
    return true;
}

void SlotPool::give(const Slot& slot) {
    Class& to = classes_[static_cast<std::size_t>(slot.size_class)];
    Use& use = to.use[static_cast<std::size_t>(slot.index)];
    MOESTRO_CHECK(use == Use::taken);
    use = Use::spare;
    to.spare.push_back(slot.index);
    in_use_bytes_ -= to.bytes;
    --in_use_;
}

bool SlotPool::would_fit(int size_class, std::size_t bytes, int slots) const {
    const Class& of = classes_[static_cast<std::size_t>(size_class)];
    return in_use_bytes_ - bytes + of.bytes <= limit() && in_use_ - slots < max_slots_;
}

bool SlotPool::set_limit(std::size_t bytes) {
    if (in_use_bytes_ > bytes) return false;
    while (over(0, 0, bytes)) MOESTRO_CHECK(decommit_one(-1));
    return reservation_.try_resize(bytes);
}

// Gives the memory of one spare slot of another class back.
bool SlotPool::decommit_one(int except) {
    for (std::size_t i = 0; i < classes_.size(); ++i) {
        if (static_cast<int>(i) == except || classes_[i].spare.empty()) continue;
        decommit(static_cast<int>(i));
        return true;
    }
    return false;
}

void SlotPool::decommit(int size_class) {
    Class& of = classes_[static_cast<std::size_t>(size_class)];
    const int index = of.spare.back();
    of.spare.pop_back();
    memory_->decommit(size_class, index);
    of.where[static_cast<std::size_t>(index)] = nullptr;
    of.use[static_cast<std::size_t>(index)] = Use::empty;
    of.empty.push_back(index);
    committed_bytes_ -= of.bytes;
    --committed_;
}

void SlotPool::check_integrity() const {
    std::size_t committed_bytes = 0, in_use_bytes = 0;
    int committed = 0, in_use = 0;
    for (const Class& one : classes_) {
        const auto count = [&](Use use) { return static_cast<int>(std::count(one.use.begin(), one.use.end(), use)); };
        const int spare = count(Use::spare), taken = count(Use::taken);
        MOESTRO_CHECK(spare == static_cast<int>(one.spare.size()) &&
                      count(Use::empty) == static_cast<int>(one.empty.size()));
        committed += spare + taken;
        in_use += taken;
        committed_bytes += static_cast<std::size_t>(spare + taken) * one.bytes;
        in_use_bytes += static_cast<std::size_t>(taken) * one.bytes;
    }
    MOESTRO_CHECK(committed == committed_ && in_use == in_use_ && committed_bytes == committed_bytes_ &&
                  in_use_bytes == in_use_bytes_);
    MOESTRO_CHECK(committed_bytes_ <= limit() && committed_ <= max_slots_);
}

}  // namespace moestro::memory
