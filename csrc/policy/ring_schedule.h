// A ring of slots that units pass through in a fixed order, again and again: which unit is read next and into which
// slot, ahead of its use and into the next pass. The common form of ZeRO-Inference's layer buffers, Superpipeline's
// (k, k'), TPI-LLM's memory window and SE-MoE's ring (docs/streaming.md). Pure: no bytes, no threads, no time.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

namespace moestro::policy {

inline constexpr int kOwnRoom = -1;  // instead of a slot: the unit stays once it has arrived

class RingSchedule {
  public:
    struct Load {
        int unit = 0;
        int slot = 0;                  // or kOwnRoom
        std::uint64_t generation = 0;  // of this use of the slot; no two loads share one
    };
    enum class Stage : std::uint8_t { missing, loading, ready };

    // `window` slots for units 0 .. units - 1, of which as many as `batch` are read at a time: reading begins again
    // when so many slots are free. Throws Error(usage) unless 1 <= batch <= window and there are units.
    RingSchedule(int units, int window, int batch);

    // A unit with room of its own is read once, in its turn, and skipped from then on. Taking the room away makes it go
    // through the ring. REQUIRES !reading(unit), and that nobody uses it.
    void set_own_room(int unit, bool own);
    bool own_room(int unit) const { return own_[at(unit)]; }
    bool stays(int unit) const { return here_[at(unit)]; }  // in its own room, complete
    bool reading(int unit) const;                           // started, not arrived; wanted or not

    // A pass uses units 0 .. used - 1 in order, and the next one will begin with 0.
    void begin(int used);

    // The next read to start; nothing while no slot may be filled. Its slot is taken.
    std::optional<Load> next();
    // A read ended; `good`: its bytes are the unit's. False when nobody wants it any more: its slot is free.
    bool arrived(const Load& load, bool good);

    // Where the unit is that is used next; one that could not be read counts as ready. What was read ahead of it in
    // vain is dropped; when it is missing it becomes the next to be read.
    Stage look(int unit);
    const Load& front() const { return ring_.front().load; }  // REQUIRES look(unit) == ready, and no own room
    // The unit was used, or could not be had: its slot is free.
    void pop(int unit);

    int used() const { return used_; }
    int window() const { return window_; }
    int free_slots() const { return static_cast<int>(free_.size()); }

    // Throws Error(internal) when slots were lost or given twice.
    void check_integrity() const;

  private:
    struct Entry {
        Load load;
        bool arrived = false, good = false;
    };

    static std::size_t at(int unit) { return static_cast<std::size_t>(unit); }
    std::optional<int> next_unit() const;
    bool waits_in_own_room(int unit) const;
    void drop_front();
    void settle(const Load& load, bool good);

    const int window_, batch_;
    int used_;
    std::vector<bool> own_, here_;  // by unit
    std::deque<Entry> ring_;        // in order of use; the front may be held
    std::vector<Load> unwanted_;    // dropped while they were being read
    std::vector<int> free_;         // slots; the one that has been free longest comes first
    int next_ = 0;                  // unit to look at next
    int filling_ = 0;               // reads of the present batch not started yet
    std::uint64_t generation_ = 0;
};

// A permutation of 0 .. count - 1 of which every beginning is spread evenly: the units that are given memory in this
// order have streamed ones between them to hide reads behind.
std::vector<int> spread_order(int count);

}  // namespace moestro::policy
