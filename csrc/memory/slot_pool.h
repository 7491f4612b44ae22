// Fixed-size rooms for expert records. How many slots of a size class hold memory at a time follows what is asked for,
// under one limit for all classes.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "memory/ledger.h"
#include "memory/slot_memory.h"

namespace moestro::memory {

struct SlotClass {
    std::size_t bytes = 0;  // of a slot: a multiple of 4096
    int most = 0;           // slots that could ever be wanted: the records of this size
};

struct Slot {
    int size_class = -1;
    int index = -1;
    std::byte* data = nullptr;  // page-aligned
};

// Ledger entry "expert slots": the limit, whether or not all of it is in use. Thread-safety: one thread at a time.
class SlotPool {
  public:
    // At most `limit` bytes and `max_slots` slots hold memory. Throws Error(budget) when the ledger has no room for the
    // limit.
    SlotPool(std::shared_ptr<Ledger> ledger, std::vector<SlotClass> classes, std::size_t limit, int max_slots,
             std::unique_ptr<SlotMemory> memory = host_slots());

    // A slot with unspecified contents, or nothing when the limit is used up by slots in use: then give some back.
    // Where there is less memory than the limit allows, the limit shrinks to what there is (refusal() says why).
    std::optional<Slot> take(int size_class);
    void give(const Slot& slot);
    // Whether take(size_class) would succeed after `bytes` in `slots` slots were given back.
    bool would_fit(int size_class, std::size_t bytes, int slots) const;

    // Changes the limit and the ledger entry with it. False, and unchanged, when slots in use are more than that, or
    // the budget has no room to grow.
    bool set_limit(std::size_t bytes);

    std::size_t limit() const { return reservation_.bytes(); }
    std::string refusal() const { return memory_->refusal(); }
    int max_slots() const { return max_slots_; }
    std::size_t bytes_in_use() const { return in_use_bytes_; }
    int slots_in_use() const { return in_use_; }
    std::size_t slot_bytes(int size_class) const { return classes_[static_cast<std::size_t>(size_class)].bytes; }

    void check_integrity() const;

  private:
    enum class Use : unsigned char { empty, spare, taken };  // no memory | memory, nobody's | somebody's
    struct Class {
        std::size_t bytes = 0;
        std::vector<Use> use;           // by index
        std::vector<std::byte*> where;  // by index; null while empty
        std::vector<int> spare;         // indices
        std::vector<int> empty;         // indices; low ones are taken first, to keep ranges dense
    };
    bool commit(int size_class);
    bool decommit_one(int except);
    void decommit(int size_class);
    bool over(std::size_t more_bytes, int more_slots, std::size_t limit) const;

    const int max_slots_;
    const std::unique_ptr<SlotMemory> memory_;
    std::vector<Class> classes_;
    Reservation reservation_;
    std::size_t committed_bytes_ = 0, in_use_bytes_ = 0;  // spare + taken, taken
    int committed_ = 0, in_use_ = 0;
};

}  // namespace moestro::memory
