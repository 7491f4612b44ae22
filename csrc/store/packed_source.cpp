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
    PackedSource(std::shared_ptr<const Catalog> catalog, io::Reader& reader, ThreadPool& pool, Verify verify,
                 const Clock& clock)
        : catalog_(std::move(catalog)), reader_(reader), pool_(pool), verify_(verify), clock_(clock) {
        verified_.resize(static_cast<std::size_t>(catalog_->experts()), false);
    }

    void start(ExpertId id, std::byte* slot, bool urgent) override {
        if (free_.empty()) {
            pending_.emplace_back();
            free_.push_back(pending_.size() - 1);
        }
        const std::size_t tag = free_.back();
        free_.pop_back();
        pending_[tag] = {id, slot};
        const RecordExtent& record = extent(id);
        queued_.push_back({.file = catalog_->files()[static_cast<std::size_t>(record.file)],
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
        ExpertId id;
        std::byte* slot = nullptr;
    };
    struct Check {
        std::size_t arrival = 0;  // index in `out`
        const std::byte* slot = nullptr;
        std::uint64_t sum = 0;
    };

    const RecordExtent& extent(ExpertId id) const {
        return catalog_->layer(id.layer).records[static_cast<std::size_t>(id.expert)];
    }
    static std::string describe(ExpertId id) { return text("layer ", id.layer, ", expert ", id.expert); }

    void deliver(std::vector<Arrival>& out) {
        if (completions_.empty()) return;
        const Nanos begin = clock_.now();
        for (const io::Completion& completion : completions_) {
            const Pending& pending = pending_[completion.tag];
            Arrival arrival{pending.id, inspect(completion, pending.id)};
            if (!arrival.error && must_verify(pending.id)) checks_.push_back({out.size(), pending.slot, 0});
            out.push_back(std::move(arrival));
            free_.push_back(completion.tag);
        }
        completions_.clear();
        unchanged_.clear();
        verify(out);
        counters_.arrival_ns += clock_.now() - begin;
    }

    std::optional<Error> inspect(const io::Completion& completion, ExpertId id) {
        const RecordExtent& record = extent(id);
        const io::File& file = catalog_->file(record.file);
        if (auto error = read_error(completion, file, record.offset, record.bytes, describe(id))) return error;
        // Once per file and batch: a stat costs microseconds, but batches of a prefill are large.
        if (std::find(unchanged_.begin(), unchanged_.end(), &file) != unchanged_.end()) return std::nullopt;
        if (auto error = change_error(file)) return with_context(describe(id), *error);
        unchanged_.push_back(&file);
        return std::nullopt;
    }

    bool must_verify(ExpertId id) const {
        if (verify_ == Verify::never) return false;
        return verify_ == Verify::always || !verified_[static_cast<std::size_t>(catalog_->number(id))];
    }

    void verify(std::vector<Arrival>& out) {
        pool_.parallel_for(static_cast<std::int64_t>(checks_.size()), [&](std::int64_t item, int) {
            Check& check = checks_[static_cast<std::size_t>(item)];
            check.sum = xxh64({check.slot, extent(out[check.arrival].id).bytes});
        });
        for (const Check& check : checks_) {
            Arrival& arrival = out[check.arrival];
            const RecordExtent& record = extent(arrival.id);
            if (check.sum == record.checksum)
                verified_[static_cast<std::size_t>(catalog_->number(arrival.id))] = true;
            else
                arrival.error = Error(ErrorKind::integrity,
                                      text(describe(arrival.id), ": the record of ", record.bytes, " bytes at offset ",
                                           record.offset, " of ", catalog_->file(record.file).path(),
                                           " has checksum 0x", std::hex, check.sum, ", expected 0x", record.checksum,
                                           ": its bytes have changed. Pack the model again, and check the disk"));
        }
        checks_.clear();
    }

    const std::shared_ptr<const Catalog> catalog_;
    io::Reader& reader_;
    ThreadPool& pool_;
    const Verify verify_;
    const Clock& clock_;

    std::vector<Pending> pending_;   // by tag
    std::vector<std::size_t> free_;  // tags not in use
    std::vector<io::ReadRequest> queued_;
    std::vector<bool> verified_;  // by number of the expert
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

std::unique_ptr<RecordSource> make_packed_source(std::shared_ptr<const Catalog> catalog, io::Reader& reader,
                                                 ThreadPool& pool, Verify verify, const Clock& clock) {
    return std::make_unique<PackedSource>(std::move(catalog), reader, pool, verify, clock);
}

}  // namespace moestro::store
