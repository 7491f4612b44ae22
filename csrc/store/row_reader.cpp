#include "store/row_reader.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/types.h"
#include "store/read_check.h"

namespace moestro::store {

namespace {

constexpr std::size_t kChunkBytes = std::size_t{1} << 20;  // large enough for any disk, small enough to have many
constexpr std::size_t kPieceBytes = std::size_t{64} << 10;

// Lines are taken in multiples of this.
std::int32_t least_lines(const RowJob& job) {
    return job.slice.by_columns() ? 1 : job.panel_rows;
}

// As many as fit `bytes`, at least the least.
std::int32_t lines_within(const RowJob& job, std::size_t bytes) {
    const std::size_t least_bytes = job.slice.line_bytes() * static_cast<std::size_t>(least_lines(job));
    return static_cast<std::int32_t>(std::max<std::size_t>(1, bytes / std::max<std::size_t>(1, least_bytes))) *
           least_lines(job);
}

std::string lines_text(const TensorSlice& slice, std::int32_t first, std::int32_t count) {
    return text(slice.by_columns() ? "columns " : "rows ", first, " to ", first + count - 1);
}

template <class Item>
std::size_t take_index(std::vector<Item>& items, std::vector<std::size_t>& free) {
    if (free.empty()) {
        items.emplace_back();
        return items.size() - 1;
    }
    const std::size_t index = free.back();
    free.pop_back();
    return index;
}

}  // namespace

std::function<void(const std::byte*, std::int32_t, std::int32_t)> pack_into(const TensorSlice& slice,
                                                                            const quant::MatrixSpec& spec,
                                                                            std::byte* destination) {
    if (slice.by_columns())
        return [slice, spec, destination](const std::byte* lines, std::int32_t count, std::int32_t first) {
            quant::pack_columns({lines, slice.type, first, count, slice.column_stride, slice.column_step}, spec,
                                destination);
        };
    return [slice, spec, destination](const std::byte* lines, std::int32_t count, std::int32_t first) {
        // Panels do not know where in the matrix they are: some rows pack like a matrix of their own.
        const quant::MatrixSpec part{count, slice.cols, spec.format, spec.scale};
        const std::size_t panel = static_cast<std::size_t>(first / spec.panel_rows());
        quant::pack({lines, slice.type, count, slice.cols}, part, destination + panel * spec.panel_bytes(), 0,
                    part.panels());
    };
}

std::vector<RowJob> packing_jobs(const std::shared_ptr<const io::File>& file, const TensorSlice& slice,
                                 const quant::MatrixSpec& spec, std::byte* destination) {
    std::vector<RowJob> jobs;
    const std::int32_t rows = slice.rows / slice.stack;
    // What is packed of one fills whole panels, and the next one's follow.
    MOESTRO_CHECK(slice.stack == 1 || (rows % spec.panel_rows() == 0 && rows - slice.stack_rows < spec.panel_rows()));
    for (std::int32_t number = 0; number < slice.stack; ++number) {
        const TensorSlice one = slice.block(number);
        const quant::MatrixSpec of_one{one.rows, one.cols, spec.format, spec.scale};
        std::byte* at = destination + static_cast<std::size_t>(number) *
                                          static_cast<std::size_t>(rows / spec.panel_rows()) * spec.panel_bytes();
        jobs.push_back(
            {.file = file, .slice = one, .panel_rows = spec.panel_rows(), .consume = pack_into(one, of_one, at)});
    }
    return jobs;
}

RowReader::RowReader(io::Reader& reader, memory::Staging& staging, ThreadPool& pool, const Clock& clock)
    : reader_(reader), staging_(staging), pool_(pool), clock_(clock) {}

void RowReader::require_room(const RowJob& job) const {
    const std::size_t least_bytes = job.slice.line_bytes() * static_cast<std::size_t>(least_lines(job));
    require(least_bytes + 2 * job.file->alignment() <= staging_.capacity(), ErrorKind::unsupported, least_lines(job),
            job.slice.by_columns() ? " columns" : " rows", " of a [", job.slice.rows, ", ", job.slice.cols,
            "] matrix of ", job.file->path(), " are ", bytes_text(least_bytes), ", more than staging holds (",
            bytes_text(staging_.capacity()), ")");
}

void RowReader::push(RowJob job) {
    require_room(job);
    const std::size_t index = take_index(jobs_, free_jobs_);
    (job.urgent ? urgent_ : normal_).push_back(index);
    jobs_[index] = {.wanted = std::move(job), .next_line = 0, .chunks = 0, .error = {}};
}

void RowReader::flush() {
    while (!urgent_.empty() || !normal_.empty()) {
        std::deque<std::size_t>& queue = urgent_.empty() ? normal_ : urgent_;
        const std::size_t index = queue.front();
        if (!next_chunk(index)) break;
        if (jobs_[index].next_line == jobs_[index].wanted.slice.lines()) queue.pop_front();
    }
    if (requests_.empty()) return;
    reader_.submit(requests_);
    for (const io::ReadRequest& request : requests_) counters_.bytes += request.destination.size();
    counters_.reads += requests_.size();
    requests_.clear();
}

// Queues the job's next chunk; false when staging has no room for it now.
bool RowReader::next_chunk(std::size_t index) {
    Job& job = jobs_[index];
    const TensorSlice& slice = job.wanted.slice;
    const io::File& file = *job.wanted.file;
    const std::int32_t lines = std::min(lines_within(job.wanted, std::min(kChunkBytes, staging_.capacity() / 4)),
                                        slice.lines() - job.next_line);
    const std::uint64_t begin = slice.offset + static_cast<std::uint64_t>(job.next_line) * slice.line_bytes();
    const std::size_t bytes = static_cast<std::size_t>(lines - 1) * slice.line_bytes() + slice.last_line_bytes();
    const std::uint64_t aligned = begin - begin % file.alignment();
    const std::size_t skip = static_cast<std::size_t>(begin - aligned);

    const std::span<std::byte> buffer = staging_.take(round_up(skip + bytes, file.alignment()));
    if (buffer.empty()) return false;
    const std::size_t tag = take_index(chunks_, free_chunks_);
    chunks_[tag] = {index, job.next_line, lines, aligned, skip, skip + bytes, buffer};
    requests_.push_back({job.wanted.file, aligned, buffer, tag, job.wanted.urgent});
    job.next_line += lines;
    ++job.chunks;
    return true;
}

void RowReader::poll(std::vector<RowsDone>& out) {
    flush();
    reader_.poll(completions_);
    arrived(out);
}

void RowReader::wait(std::vector<RowsDone>& out) {
    flush();
    reader_.wait(completions_);
    arrived(out);
}

void RowReader::arrived(std::vector<RowsDone>& out) {
    if (completions_.empty()) return;
    const Nanos begin = clock_.now();
    for (const io::Completion& completion : completions_) inspect(completion);
    pool_.parallel_for(static_cast<std::int64_t>(pieces_.size()), [&](std::int64_t item, int) {
        Piece& piece = pieces_[static_cast<std::size_t>(item)];
        consume(jobs_[piece.chunk->job], piece);
    });
    for (Piece& piece : pieces_) {
        if (piece.error) stop(piece.chunk->job, std::move(*piece.error));
    }
    for (const io::Completion& completion : completions_) finish(static_cast<std::size_t>(completion.tag), out);
    completions_.clear();
    pieces_.clear();
    unchanged_.clear();
    flush();  // staging has room again
    counters_.arrival_ns += clock_.now() - begin;
}

void RowReader::inspect(const io::Completion& completion) {
    const Chunk& chunk = chunks_[static_cast<std::size_t>(completion.tag)];
    const io::File& file = *jobs_[chunk.job].wanted.file;
    if (auto error = read_error(completion, file, chunk.offset, chunk.need,
                                lines_text(jobs_[chunk.job].wanted.slice, chunk.first, chunk.lines)))
        return stop(chunk.job, std::move(*error));
    // Nothing else would notice that other bytes came: a checkpoint carries no checksum. Once per file and batch.
    if (std::find(unchanged_.begin(), unchanged_.end(), &file) == unchanged_.end()) {
        if (auto error = change_error(file)) return stop(chunk.job, std::move(*error));
        unchanged_.push_back(&file);
    }
    if (!jobs_[chunk.job].error) cut(chunk);
}

// Keeps the job's first error; what was not asked for yet never will be.
void RowReader::stop(std::size_t index, Error error) {
    Job& job = jobs_[index];
    if (job.error) return;
    job.error = std::move(error);
    std::deque<std::size_t>& queue = job.wanted.urgent ? urgent_ : normal_;
    if (job.next_line < job.wanted.slice.lines()) queue.erase(std::find(queue.begin(), queue.end(), index));
    job.next_line = job.wanted.slice.lines();
}

void RowReader::cut(const Chunk& chunk) {
    const std::int32_t step = lines_within(jobs_[chunk.job].wanted, kPieceBytes);
    const std::int32_t end = chunk.first + chunk.lines;
    for (std::int32_t line = chunk.first; line < end; line += step)
        pieces_.push_back({&chunk, line, std::min(step, end - line), {}});
}

void RowReader::consume(const Job& job, Piece& piece) {
    const Chunk& chunk = *piece.chunk;
    const TensorSlice& slice = job.wanted.slice;
    const std::size_t before = static_cast<std::size_t>(piece.first - chunk.first) * slice.line_bytes();
    const auto where = [&] {
        return text(lines_text(slice, piece.first, piece.lines), " of ", job.wanted.file->path());
    };
    try {
        job.wanted.consume(chunk.buffer.data() + chunk.skip + before, piece.lines, piece.first);
    } catch (const Error& error) {
        piece.error = with_context(where(), error);
    } catch (const std::exception& error) {
        piece.error = Error(ErrorKind::internal, text(where(), ": ", error.what()));
    }
}

void RowReader::finish(std::size_t tag, std::vector<RowsDone>& out) {
    Chunk& chunk = chunks_[tag];
    staging_.give(chunk.buffer);
    chunk.buffer = {};
    free_chunks_.push_back(tag);
    Job& job = jobs_[chunk.job];
    if (--job.chunks > 0 || job.next_line < job.wanted.slice.lines()) return;
    out.push_back({job.wanted.tag, std::move(job.error)});
    job = {};
    free_jobs_.push_back(chunk.job);
}

}  // namespace moestro::store
