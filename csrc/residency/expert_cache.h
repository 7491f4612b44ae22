// The expert cache: which records are in one tier, host memory or a device's. A pin keeps a record where it is; only
// records that are complete and unpinned can be evicted. A record that is being loaded is joined, never loaded twice.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/trace.h"
#include "base/types.h"
#include "memory/slot_pool.h"
#include "policy/eviction.h"
#include "residency/state.h"
#include "store/expert_table.h"
#include "store/record_source.h"

namespace moestro::residency {

struct CacheCounters {
    std::uint64_t evictions = 0, loads = 0;
    Nanos read_busy_ns = 0;    // time with at least one load in flight
    Nanos read_queued_ns = 0;  // of all loads: waiting for others before them
    // As if loads were served one after the other: bytes, how long they took, and those that somebody waited for.
    std::uint64_t served_bytes = 0;
    Nanos served_ns = 0, demand_ns = 0;
};

class ExpertCache;

// Keeps one record from being evicted, or waits for its load: move-only, unpins when it goes. Must not outlive the
// cache.
class Pin {
  public:
    Pin() = default;
    ~Pin() { reset(); }
    Pin(Pin&& other) noexcept : cache_(std::exchange(other.cache_, nullptr)), number_(other.number_) {}
    Pin& operator=(Pin&& other) noexcept {
        std::swap(cache_, other.cache_);
        std::swap(number_, other.number_);
        return *this;
    }
    Pin(const Pin&) = delete;
    Pin& operator=(const Pin&) = delete;

    void reset() noexcept;
    explicit operator bool() const { return cache_ != nullptr; }

    State state() const;            // loading, host or failed
    const std::byte* data() const;  // REQUIRES state() == host; valid as long as the pin
    const Error& error() const;     // REQUIRES state() == failed
    Nanos ready() const;            // when its bytes came; REQUIRES state() == host

  private:
    friend class ExpertCache;
    Pin(ExpertCache* cache, int number) : cache_(cache), number_(number) {}

    ExpertCache* cache_ = nullptr;
    int number_ = -1;
};

// One thread at a time. Slots are written by the source's reads: whoever reads for the source must be finished or gone
// before the cache is.
class ExpertCache {
  public:
    // At most `limit` bytes in at most `max_slots` slots. Throws Error(budget) when two slots of the largest record do
    // not fit the limit, the ledger has no room for it, or there is no memory for them.
    ExpertCache(std::shared_ptr<const store::ExpertTable> table, std::shared_ptr<memory::Ledger> ledger,
                std::size_t limit, int max_slots, std::unique_ptr<store::RecordSource> source,
                std::unique_ptr<policy::Eviction> eviction, const Clock& clock,
                std::unique_ptr<memory::SlotMemory> memory = memory::host_slots());

    State state(ExpertId id) const { return entries_[number(id)].state; }
    // REQUIRES that the record is not absent.
    Pin pin(ExpertId id);
    // Queues the read of an absent record, evicting what the policy gives up for it. False when everything that could
    // make room is pinned or loading, and nothing changed; or when there is less memory than the limit allows.
    bool start_load(ExpertId id, bool urgent);
    // The same for a record that may be of use later: only records for which `spare` holds make room, and `evicted` is
    // told which did. False, and the record absent, when they do not suffice.
    bool start_prefetch(ExpertId id, const policy::Evictable& spare, std::vector<ExpertId>& evicted);
    // Records that are given up before all others, as long as there are some; the policy chooses among them.
    void set_given_up_first(policy::Evictable first) { given_up_first_ = std::move(first); }
    bool can_evict(ExpertId id) const { return evictable(entries_[number(id)]); }
    bool full() const { return slots_.bytes_in_use() + largest_slot_ > limit(); }
    // Hands queued reads to the disk in one batch.
    void flush() { source_->flush(); }
    // Takes in what has arrived; wait() blocks until some read has finished (which need not complete a record).
    void poll();
    void wait();  // REQUIRES loading() > 0

    // Reads are recorded there from now on.
    void set_trace(TraceRing* trace, Lane lane = Lane::ssd) {
        trace_ = trace;
        trace_lane_ = lane;
    }

    // For policies: an accepted token's turn, what a router thought of an accepted token's best experts, where they
    // want to know, and that it used an expert.
    void token() { eviction_->on_token(); }
    bool wants_scores() const { return eviction_->wants_scores(); }
    void scored(int layer, std::span<const policy::ScoredExpert> best) { eviction_->on_scores(layer, best); }
    void used(ExpertId id) { eviction_->on_use(id); }

    // Shrinks or grows while running. False, and the limit unchanged, when pinned records do not fit the new one, or
    // less than two slots would remain, or the ledger has no room to grow.
    bool set_limit(std::size_t bytes);
    std::size_t limit() const { return slots_.limit(); }
    std::size_t minimum() const { return 2 * largest_slot_; }  // bytes
    std::size_t useful() const { return useful_; }             // bytes beyond which more are of no use

    int loading() const { return loading_; }
    int loading_urgently() const { return loading_urgently_; }
    int resident() const { return resident_; }
    std::size_t resident_bytes() const { return resident_bytes_; }
    std::size_t largest_slot() const { return largest_slot_; }
    int slots() const;                                        // of the largest record, within the limit
    std::string refusal() const { return slots_.refusal(); }  // why there are fewer than asked for; empty where not
    CacheCounters counters() const;
    store::SourceCounters source_counters() const { return source_->counters(); }

    // Throws Error(internal) when states, slots, pins and counts contradict each other.
    void check_integrity() const;

  private:
    friend class Pin;
    struct Entry {
        State state = State::absent;
        bool urgent = false;  // loading only
        int pins = 0;
        memory::Slot slot;
        std::optional<Error> error;  // failed only
        Nanos submitted = 0;         // of its load
        Nanos ready = 0;
    };

    std::size_t number(ExpertId id) const { return static_cast<std::size_t>(table_->number(id)); }
    int size_class(ExpertId id) const { return class_of_layer_[table_->position(id.layer)]; }
    bool evictable(const Entry& entry) const { return entry.state == State::resident && entry.pins == 0; }
    void move(Entry& entry, State to);
    void count(const Entry& entry, int sign);
    void unpin(int number) noexcept;
    std::optional<memory::Slot> take(ExpertId id);
    std::optional<ExpertId> evict_one(const policy::Evictable& among, std::optional<ExpertId> incoming);
    void load_into(memory::Slot slot, ExpertId id, Entry& entry, bool urgent);
    void release_slot(ExpertId id, Entry& entry, State to);
    void take_in();
    void record(int number, const Entry& entry, Nanos now);
    std::size_t immovable_bytes() const;
    std::vector<memory::SlotClass> classes();
    void require_two_slots();
    void check_entries() const;

    const std::shared_ptr<const store::ExpertTable> table_;
    std::vector<int> class_of_layer_;  // by position in the table
    std::size_t largest_slot_ = 0, useful_ = 0;
    memory::SlotPool slots_;
    const std::unique_ptr<store::RecordSource> source_;
    const std::unique_ptr<policy::Eviction> eviction_;
    const Clock& clock_;
    const std::function<bool(ExpertId)> may_evict_;
    policy::Evictable given_up_first_;  // may be empty

    std::vector<Entry> entries_;  // by number
    int loading_ = 0, loading_urgently_ = 0, resident_ = 0, evictable_ = 0;
    std::size_t resident_bytes_ = 0, evictable_bytes_ = 0;
    CacheCounters counters_;
    Nanos busy_since_ = 0;  // meaningful while loading_ > 0
    LaneTimes lane_;
    TraceRing* trace_ = nullptr;
    Lane trace_lane_ = Lane::ssd;

    std::vector<store::Arrival> arrivals_;  // kept for its memory, empty between calls
};

}  // namespace moestro::residency
