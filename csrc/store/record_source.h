// Where records come from: reads them, in the kernels' layout, into slots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "io/reader.h"
#include "memory/staging.h"
#include "store/records.h"

namespace moestro::store {

// A record that is complete in its slot, or could not be had: then a full sentence with its name, file, offset, what
// was expected and the cause.
struct Arrival {
    int number = -1;
    std::optional<Error> error;
};

struct SourceCounters {
    std::uint64_t bytes = 0;  // asked of the reader, alignment included
    std::uint64_t reads = 0;
    Nanos arrival_ns = 0;  // spent on verifying checksums and interleaving
};

// One thread at a time. The reader must be nobody else's while records are in flight.
class RecordSource {
  public:
    virtual ~RecordSource() = default;
    // Queues the record's read; urgent ones overtake others. The slot is the source's until the arrival is returned,
    // also after an error. REQUIRES that this record is not in flight.
    virtual void start(int number, std::byte* slot, bool urgent) = 0;
    // Hands what start() queued to the reader, in one batch.
    virtual void flush() = 0;
    // Flushes, then appends what has arrived, without blocking on the device.
    virtual void poll(std::vector<Arrival>& out) = 0;
    // The same, but blocks until the reader has finished at least one read (which need not complete a record).
    // REQUIRES in_flight() > 0.
    virtual void wait(std::vector<Arrival>& out) = 0;
    virtual std::size_t in_flight() const = 0;  // started and not yet returned
    virtual SourceCounters counters() const = 0;
};

// When a packed record's checksum is compared.
enum class Verify : std::uint8_t { first, always, never };  // first: when it is first read
Verify parse_verify(std::string_view text);                 // throws Error(usage) naming the known ones

// beside: checksums are verified on a thread of their own, worth it where a processor is free; else by the pool, on the
// thread that takes arrivals. All arguments but the records are borrowed and must outlive the source. A checkpoint
// source throws Error(unsupported) when a panel of some record is larger than staging.
std::unique_ptr<RecordSource> make_packed_source(std::shared_ptr<const Records> records, io::Reader& reader,
                                                 ThreadPool& pool, Verify verify, const Clock& clock,
                                                 bool beside = false);
std::unique_ptr<RecordSource> make_checkpoint_source(std::shared_ptr<const Records> records, io::Reader& reader,
                                                     memory::Staging& staging, ThreadPool& pool, const Clock& clock);

}  // namespace moestro::store
