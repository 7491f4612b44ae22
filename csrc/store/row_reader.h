// Reads matrices in chunks of whole lines (rows, or the columns of a table) through staging, many chunks in flight, and
// hands the lines on as they come. No copy larger than staging ever exists, whatever the size of the matrix.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread_pool.h"
#include "io/reader.h"
#include "memory/staging.h"
#include "quant/pack.h"
#include "store/record_source.h"

namespace moestro::store {

// One matrix to read.
struct RowJob {
    std::shared_ptr<const io::File> file;
    TensorSlice slice;            // no stack
    std::int32_t panel_rows = 1;  // pieces are multiples of this many rows, but for the matrix's last one
    // Called for every line exactly once, in any order, from several threads at once, with where some of them lie,
    // valid during the call, how many, and the first one's number. What it throws fails the job.
    std::function<void(const std::byte* lines, std::int32_t count, std::int32_t first)> consume;
    std::uint64_t tag = 0;
    bool urgent = false;
};

// A job that is over; nothing of it is being read or consumed any more.
struct RowsDone {
    std::uint64_t tag = 0;
    std::optional<Error> error;
};

// One that packs `slice` into `destination`, a whole matrix [slice.rows, slice.cols] of the format of `spec`.
std::function<void(const std::byte*, std::int32_t, std::int32_t)> pack_into(const TensorSlice& slice,
                                                                            const quant::MatrixSpec& spec,
                                                                            std::byte* destination);
// Jobs for every matrix of a stack, or the one that it is.
std::vector<RowJob> packing_jobs(const std::shared_ptr<const io::File>& file, const TensorSlice& slice,
                                 const quant::MatrixSpec& spec, std::byte* destination);

// One thread at a time. The reader must be nobody else's while jobs are in flight.
class RowReader {
  public:
    RowReader(io::Reader& reader, memory::Staging& staging, ThreadPool& pool, const Clock& clock);

    // Throws Error(unsupported) when a panel of the matrix is larger than staging.
    void require_room(const RowJob& job) const;
    void push(RowJob job);                  // throws as require_room does
    void flush();                           // hands chunks to the reader as far as staging has room
    void poll(std::vector<RowsDone>& out);  // flushes, consumes what has arrived, appends jobs that are over
    void wait(std::vector<RowsDone>& out);  // the same, blocking until a read has finished. REQUIRES in_flight() > 0
    std::size_t in_flight() const { return jobs_.size() - free_jobs_.size(); }
    SourceCounters counters() const { return counters_; }

  private:
    struct Job {
        RowJob wanted;
        std::int32_t next_line = 0;  // not yet asked for
        int chunks = 0;              // with the reader
        std::optional<Error> error;
    };
    struct Chunk {
        std::size_t job = 0;
        std::int32_t first = 0, lines = 0;
        std::uint64_t offset = 0;     // of `buffer` in the file
        std::size_t skip = 0;         // bytes of `buffer` before the first line
        std::size_t need = 0;         // bytes of `buffer` that must arrive
        std::span<std::byte> buffer;  // empty: not in use
    };
    // A few panels of an arrived chunk: what a thread takes at a time.
    struct Piece {
        const Chunk* chunk = nullptr;
        std::int32_t first = 0, lines = 0;  // inside the matrix
        std::optional<Error> error;
    };

    bool next_chunk(std::size_t job);
    void arrived(std::vector<RowsDone>& out);
    void inspect(const io::Completion& completion);
    void stop(std::size_t job, Error error);
    void cut(const Chunk& chunk);
    static void consume(const Job& job, Piece& piece);
    void finish(std::size_t chunk, std::vector<RowsDone>& out);

    io::Reader& reader_;
    memory::Staging& staging_;
    ThreadPool& pool_;
    const Clock& clock_;

    std::vector<Job> jobs_;
    std::vector<std::size_t> free_jobs_;
    std::deque<std::size_t> urgent_, normal_;  // jobs with rows not yet asked for
    std::vector<Chunk> chunks_;                // by tag of the read
    std::vector<std::size_t> free_chunks_;
    SourceCounters counters_;

    // Kept for their memory, empty between calls:
    std::vector<io::ReadRequest> requests_;
    std::vector<io::Completion> completions_;
    std::vector<Piece> pieces_;
    std::vector<const io::File*> unchanged_;
};

}  // namespace moestro::store
