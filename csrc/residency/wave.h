// The records that one layer's rows need, pinned in turn as far as the cache has room.
//
// What comes and what goes depends on the order in which records are asked for, never on when reads arrive: records are
// given up in the order in which they were pinned, and whenever one is, as many loads are started as fit. So a trace of
// what a run asked for tells what its cache did.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"
#include "residency/expert_cache.h"

namespace moestro::residency {

// One thread at a time. Borrows the cache between begin() and end(); keeps its memory.
class Wave {
  public:
    enum class Stage : std::uint8_t {
        todo,    // not pinned yet, for want of room
        pinned,  // here, on its way, or failed
        done,    // not needed any more
    };

    // Pins what is in memory or on its way, then starts loads of the others, in this order, as far as there is room.
    void begin(ExpertCache& cache, std::span<const ExpertId> ids);
    // The first half of that: then start() and flush(), in another order, or acquire().
    void pin_present(ExpertCache& cache, std::span<const ExpertId> ids);
    // Starts the load of an item; false where there is no room. REQUIRES stage(item) == todo
    bool start(int item);
    void flush() { cache_->flush(); }
    // Drops every pin. May be called again.
    void end();

    int size() const { return static_cast<int>(items_.size()); }
    ExpertId id(int item) const { return items_[at(item)].id; }
    Stage stage(int item) const { return items_[at(item)].stage; }
    // Where its record was when begin() was called.
    State found(int item) const { return items_[at(item)].found; }
    // REQUIRES stage(item) == pinned
    const Pin& pin(int item) const { return items_[at(item)].pin; }
    // Whether some item is pinned: then its load ends, if it has not.
    bool waiting() const { return pinned_ > 0; }
    int left() const { return left_; }  // items that are not done

    // The item is not needed any more. Its pin goes when it is the oldest; then others may come.
    // REQUIRES stage(item) == pinned
    void done(int item);
    // Tries again to pin what is left to do.
    void acquire();
    // Takes back every pin of an item that is not done: it is to do again. True when there was one.
    bool disarm();

  private:
    struct Item {
        ExpertId id;
        Stage stage = Stage::todo;
        State found = State::absent;
        Pin pin;
    };
    static std::size_t at(int item) { return static_cast<std::size_t>(item); }
    void pin(Item& item);
    void pin_all_present();
    bool give_up_oldest();

    ExpertCache* cache_ = nullptr;
    std::vector<Item> items_;
    std::vector<int> order_;  // items in the order in which they were pinned
    std::size_t oldest_ = 0;  // in order_
    int todo_ = 0, pinned_ = 0, left_ = 0;
};

}  // namespace moestro::residency
