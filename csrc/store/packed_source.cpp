// A packed store: one read per record, straight into its slot.
#include <algorithm>
#include <utility>

#include "base/checksum.h"
#include "store/read_check.h"
#include "store/record_source.h"
#include "store/verifier.h"

namespace moestro::store {

namespace {

class PackedSource final : public RecordSource {
  public:
    PackedSource(std::shared_ptr<const Records> records, io::Reader& reader, ThreadPool& pool, Verify verify,
                 const Clock& clock, bool beside)
        : records_(std::move(records)), reader_(reader), pool_(pool), verify_(verify), clock_(clock) {
        verified_.resize(static_cast<std::size_t>(records_->count()), false);
        if (beside && verify_ != Verify::never) verifier_ = std::make_unique<Verifier>();
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
        if (verifier_) verifier_->poll(sums_);
        deliver(out);
    }

    void wait(std::vector<Arrival>& out) override {
        flush();
        if (verifier_ && verifier_->in_flight() > 0) {
            verifier_->wait(sums_);  // sooner than any read
            reader_.poll(completions_);
        } else {
            reader_.wait(completions_);
        }
        deliver(out);
    }

    std::size_t in_flight() const override { return pending_.size() - free_.size(); }
    SourceCounters counters() const override { return counters_; }

  private:
    struct Pending {
        int number = -1;
        std::byte* slot = nullptr;
    };

    void deliver(std::vector<Arrival>& out) {
        if (completions_.empty() && sums_.empty()) return;
        const Nanos begin = clock_.now();
        for (const io::Completion& completion : completions_) {
            const Pending& pending = pending_[completion.tag];
            std::optional<Error> error = inspect(completion, pending.number);
            if (error || !must_verify(pending.number))
                arrive(completion.tag, std::move(error), out);
            else if (verifier_)
                verifier_->push(completion.tag, record_in(pending));
            else
                checks_.push_back({completion.tag, 0});
        }
        completions_.clear();
        unchanged_.clear();
        pool_.parallel_for(static_cast<std::int64_t>(checks_.size()), [&](std::int64_t item, int) {
            Verifier::Sum& check = checks_[static_cast<std::size_t>(item)];
            check.sum = xxh64(record_in(pending_[check.tag]));
        });
        for (const Verifier::Sum& check : checks_) arrive(check.tag, compare(check), out);
        for (const Verifier::Sum& check : sums_) arrive(check.tag, compare(check), out);
        checks_.clear();
        sums_.clear();
        counters_.arrival_ns += clock_.now() - begin;
    }

    void arrive(std::size_t tag, std::optional<Error> error, std::vector<Arrival>& out) {
        out.push_back({pending_[tag].number, std::move(error)});
        free_.push_back(tag);
    }

    std::span<const std::byte> record_in(const Pending& pending) const {
        return {pending.slot, records_->extent(pending.number).bytes};
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

    std::optional<Error> compare(const Verifier::Sum& check) {
        const int number = pending_[check.tag].number;
        const RecordExtent& record = records_->extent(number);
        if (check.sum == record.checksum) {
            verified_[static_cast<std::size_t>(number)] = true;
            return std::nullopt;
        }
        return Error(ErrorKind::integrity,
                     text(records_->name(number), ": the record of ", record.bytes, " bytes at offset ", record.offset,
                          " of ", records_->files()[static_cast<std::size_t>(record.file)]->path(), " has checksum 0x",
                          std::hex, check.sum, ", expected 0x", record.checksum,
                          ": its bytes have changed. Pack the model again, and check the disk"));
    }

    const std::shared_ptr<const Records> records_;
    io::Reader& reader_;
    ThreadPool& pool_;
    const Verify verify_;
    const Clock& clock_;

    std::unique_ptr<Verifier> verifier_;  // none: sums are computed where arrivals are delivered
    std::vector<Pending> pending_;        // by tag
    std::vector<std::size_t> free_;       // tags not in use
    std::vector<io::ReadRequest> queued_;
    std::vector<bool> verified_;  // by number
    SourceCounters counters_;

    // Kept for their memory, empty between calls:
    std::vector<io::Completion> completions_;
    std::vector<Verifier::Sum> checks_, sums_;  // computed here; by the verifier
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
                                                 ThreadPool& pool, Verify verify, const Clock& clock, bool beside) {
    return std::make_unique<PackedSource>(std::move(records), reader, pool, verify, clock, beside);
}

}  // namespace moestro::store
