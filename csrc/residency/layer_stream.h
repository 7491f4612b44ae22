// The layer stream: weights that are used in the same order in every step (a dense model's layers, an MoE's trunk) and
// do not fit memory. They pass through a ring of slots, read ahead of their use and on into the next step; as many as
// memory allows stay, spread evenly between the others. What the ring does when is policy/ring_schedule.h.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/memory.h"
#include "base/thread_pool.h"
#include "base/trace.h"
#include "io/reader.h"
#include "memory/ledger.h"
#include "memory/staging.h"
#include "policy/ring_schedule.h"
#include "store/record_source.h"
#include "store/trunk_units.h"

namespace moestro::residency {

struct StreamOptions {
    int window = 2;              // slots
    int batch = 1;               // reading begins again when so many slots are free
    std::size_t keep_bytes = 0;  // the most for units that stay once they were read
};

// What reads for a stream, and nobody else: made by the caller, used by the stream's own thread.
struct StreamReading {
    std::unique_ptr<memory::Staging> staging;  // of a checkpoint in place
    std::unique_ptr<ThreadPool> pool;          // verifies and interleaves
    std::unique_ptr<store::RecordSource> source;
    std::unique_ptr<io::Reader> reader;  // last: it waits for its reads before anything above goes away
};

struct StreamCounters {
    std::uint64_t bytes = 0, reads = 0;  // asked of the reader
    std::uint64_t used = 0, waited = 0;  // units held; those that were not there yet
    Nanos stall_ns = 0;                  // waiting for units
    Nanos arrival_ns = 0;                // verifying and interleaving, beside the computation
    Nanos read_busy_ns = 0;              // time with at least one read in flight
    Nanos read_queued_ns = 0;            // of all reads: waiting for others before them
};

// begin, hold, release, lend and grow: one thread, the step loop's. The others: any.
class LayerStream {
  public:
    // Ledger: "layer stream" for the ring's slots of the largest unit, "trunk" for units that stay. Reading begins at
    // once. Throws Error(usage) for a ring that makes no sense, Error(budget) when the ledger has no room.
    LayerStream(std::shared_ptr<store::TrunkUnits> units, std::shared_ptr<memory::Ledger> ledger,
                const StreamOptions& options, StreamReading reading, const Clock& clock);
    ~LayerStream();  // ends reads that were not started and waits for the others
    LayerStream(const LayerStream&) = delete;
    LayerStream& operator=(const LayerStream&) = delete;

    // A pass over units 0 .. used - 1, in this order; the next one is expected to begin with 0.
    void begin(int used);
    // Waits until the unit is in memory; its matrices then point there until release(). Throws what its read failed
    // with (the next hold tries again), Error(usage) when a unit is held already or is not part of the pass.
    void hold(int unit);
    void release(int unit);
    void release_all();  // after a pass was broken off

    // Makes units that stay go through the ring, until so many bytes were given back to the ledger; may wait for a read
    // into them. False, and nothing changed, when they have less.
    bool lend(std::size_t bytes);
    std::size_t can_lend() const;
    // Lets units stay again, within keep_bytes, as far as the ledger has room.
    void grow();

    // Reads and waits are recorded there from now on.
    void set_trace(TraceRing* trace);

    int units() const { return units_->count(); }
    int window() const { return schedule_.window(); }
    int kept() const;  // units with room of their own
    StreamCounters counters() const;
    // Throws Error(internal) when slots, rooms and the ledger contradict each other.
    void check_integrity() const;

    // Units that stay of some with these bytes: the first of spread_order() that fit, as many as `keep_bytes` hold.
    static std::vector<bool> keep(const std::vector<std::size_t>& unit_bytes, std::size_t keep_bytes);

  private:
    struct Room {  // of a unit that stays
        memory::Reservation reservation;
        PageBuffer memory;
    };
    using Load = policy::RingSchedule::Load;

    void give_room(int unit);
    std::byte* address(const Load& load) const;
    void take(int unit);
    void wait_for_pump(std::unique_lock<std::mutex>& lock);
    void pump();
    void start_reads();
    void take_in(std::vector<store::Arrival>& arrivals);
    void record(int unit, Nanos now);
    std::optional<Error> take_error(const Load& load);

    const std::shared_ptr<store::TrunkUnits> units_;
    const std::shared_ptr<memory::Ledger> ledger_;
    const Clock& clock_;
    const std::size_t slot_bytes_, keep_bytes_;
    const std::vector<int> order_;  // in which units get room of their own
    const memory::Reservation reservation_;
    const PageBuffer slots_;
    int held_ = -1;  // the step loop's

    mutable std::mutex mutex_;  // guards all below but `reading_`, which is the pump's
    std::condition_variable work_, changed_;
    policy::RingSchedule schedule_;
    std::vector<Room> rooms_;                     // by unit
    std::vector<Nanos> submitted_;                // by unit, of its read
    std::vector<Load> loading_;                   // by number of the record in flight; generation 0: none
    std::vector<std::pair<Load, Error>> failed_;  // arrived, not taken yet
    StreamCounters counters_;
    Nanos busy_since_ = 0;
    LaneTimes lane_;
    TraceRing* trace_ = nullptr;
    int in_flight_ = 0;
    std::exception_ptr broken_;  // the pump ended
    bool stopping_ = false;

    StreamReading reading_;
    std::thread pump_;  // last: it uses all of the above
};

}  // namespace moestro::residency
