// A packed store: one read per record, straight into its slot.
#include <algorithm>
#include <utility>

#include "base/checksum.h"
#include "store/read_check.h"
#include "store/record_source.h"

namespace moestro::store {

namespace {

class PackedSource final : public RecordSource {
  public:
    PackedSource(std::shared_ptr<const Records> records, io::Reader& reader, ThreadPool& pool, Verify verify,
                 const Clock& clock)
        : records_(std::move(records)), reader_(reader), pool_(pool), verify_(verify), clock_(clock) {
        verified_.resize(static_cast<std::size_t>(records_->count()), false);
    }

    void start(int number, std::byte* slot, bool urgent) override {
        if (free_.empty()) {
            pending_.emplace_back();
            free_.push_back(pending_.size() - 1);
        }
        const std::size_t tag = free_.back();
        free_.pop_back();
        pending_[tag] = {number, slot};
        const RecordExtent& record = records_->extent(number);
        queued_.push_back({.file = records_->files()[static_cast<std::size_t>(record.file)],
                           .offset = record.offset,
                           .destination = {slot, record.bytes},
                           .tag = tag,
                           .urgent = urgent});
    }

    void flush() override {
        if (queued_.empty()) return;
        reader_.submit(queued_);
        for (const io::ReadRequest& request : queued_) counters_.bytes += request.destination.size();
        counters_.reads += queued_.size();
        queued_.clear();
    }

    void poll(std::vector<Arrival>& out) override {
        flush();
        reader_.poll(completions_);
        deliver(out);
    }

    void wait(std::vector<Arrival>& out) override {
        flush();
        reader_.wait(completions_);
        deliver(out);
    }

    std::size_t in_flight() const override { return pending_.size() - free_.size(); }
    SourceCounters counters() const override { return counters_; }

  private:
    struct Pending {
        int number = -1;
        std::byte* slot = nullptr;
    };
    struct Check {
        std::size_t arrival = 0;  // index in `out`
        const std::byte* slot = nullptr;
        std::uint64_t sum = 0;
    };

    void deliver(std::vector<Arrival>& out) {
        if (completions_.empty()) return;
        const Nanos begin = clock_.now();
        for (const io::Completion& completion : completions_) {
            const Pending& pending = pending_[completion.tag];
            Arrival arrival{pending.number, inspect(completion, pending.number)};
            if (!arrival.error && must_verify(pending.number)) checks_.push_back({out.size(), pending.slot, 0});
            out.push_back(std::move(arrival));
            free_.push_back(completion.tag);
        }
        completions_.clear();
        unchanged_.clear();
        verify(out);
        counters_.arrival_ns += clock_.now() - begin;
    }

    std::optional<Error> inspect(const io::Completion& completion, int number) {
        const RecordExtent& record = records_->extent(number);
        const io::File& file = *records_->files()[static_cast<std::size_t>(record.file)];
        if (auto error = read_error(completion, file, record.offset, record.bytes, records_->name(number)))
            return error;
        // Once per file and batch: a stat costs microseconds, but batches of a prefill are large.
        if (std::find(unchanged_.begin(), unchanged_.end(), &file) != unchanged_.end()) return std::nullopt;
        if (auto error = change_error(file)) return with_context(records_->name(number), *error);
        unchanged_.push_back(&file);
        return std::nullopt;
    }

    bool must_verify(int number) const {
        if (verify_ == Verify::never) return false;
        return verify_ == Verify::always || !verified_[static_cast<std::size_t>(number)];
    }

    void verify(std::vector<Arrival>& out) {
        pool_.parallel_for(static_cast<std::int64_t>(checks_.size()), [&](std::int64_t item, int) {
            Check& check = checks_[static_cast<std::size_t>(item)];
            check.sum = xxh64({check.slot, records_->extent(out[check.arrival].number).bytes});
        });
        for (const Check& check : checks_) {
            Arrival& arrival = out[check.arrival];
            const RecordExtent& record = records_->extent(arrival.number);
            if (check.sum == record.checksum)
                verified_[static_cast<std::size_t>(arrival.number)] = true;
            else
                arrival.error =
                    Error(ErrorKind::integrity,
                          text(records_->name(arrival.number), ": the record of ", record.bytes, " bytes at offset ",
                               record.offset, " of ", records_->files()[static_cast<std::size_t>(record.file)]->path(),
                               " has checksum 0x", std::hex, check.sum, ", expected 0x", record.checksum,
                               ": its bytes have changed. Pack the model again, and check the disk"));
        }
        checks_.clear();
    }

    const std::shared_ptr<const Records> records_;
    io::Reader& reader_;
    ThreadPool& pool_;
    const Verify verify_;
    const Clock& clock_;

    std::vector<Pending> pending_;   // by tag
    std::vector<std::size_t> free_;  // tags not in use
    std::vector<io::ReadRequest> queued_;
    std::vector<bool> verified_;  // by number
    SourceCounters counters_;

    // Kept for their memory, empty between calls:
    std::vector<io::Completion> completions_;
    std::vector<Check> checks_;
    std::vector<const io::File*> unchanged_;
};

}  // namespace

Verify parse_verify(std::string_view name) {
    if (name == "first") return Verify::first;
    if (name == "always") return Verify::always;
    if (name == "never") return Verify::never;
    fail(ErrorKind::usage, "unknown verify mode \"", name, "\": choose first, always or never");
}

std::unique_ptr<RecordSource> make_packed_source(std::shared_ptr<const Records> records, io::Reader& reader,
                                                 ThreadPool& pool, Verify verify, const Clock& clock) {
    return std::make_unique<PackedSource>(std::move(records), reader, pool, verify, clock);
}

}  // namespace moestro::store
