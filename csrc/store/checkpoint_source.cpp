// A Hugging Face checkpoint in place: a record's matrices are read through staging and interleaved into the slot's
// layout as they come.
#include <utility>

#include "store/read_check.h"
#include "store/record_source.h"
#include "store/row_reader.h"

namespace moestro::store {

namespace {

class CheckpointSource final : public RecordSource {
  public:
    CheckpointSource(std::shared_ptr<const Records> records, io::Reader& reader, memory::Staging& staging,
                     ThreadPool& pool, const Clock& clock)
        : records_(std::move(records)), rows_(reader, staging, pool, clock) {
        // Now, and never when a record was given its slot and nobody could tell its cache any more.
        for (int number = 0; number < records_->count(); ++number)
            for (int index = 0; index < records_->slices(number); ++index)
                rows_.require_room(jobs(number, index, nullptr).front());
    }

    void start(int number, std::byte* slot, bool urgent) override {
        if (free_.empty()) {
            pending_.emplace_back();
            free_.push_back(pending_.size() - 1);
        }
        const std::size_t record = free_.back();
        free_.pop_back();
        pending_[record] = {number, 0, {}};
        for (int index = 0; index < records_->slices(number); ++index) {
            for (RowJob& job : jobs(number, index, slot)) {
                job.tag = record << kIndexBits | static_cast<std::uint64_t>(index);
                job.urgent = urgent;
                rows_.push(std::move(job));
                ++pending_[record].jobs_left;
            }
        }
    }

    void flush() override { rows_.flush(); }

    void poll(std::vector<Arrival>& out) override {
        rows_.poll(done_);
        deliver(out);
    }

    void wait(std::vector<Arrival>& out) override {
        rows_.wait(done_);
        deliver(out);
    }

    std::size_t in_flight() const override { return pending_.size() - free_.size(); }
    SourceCounters counters() const override { return rows_.counters(); }

  private:
    static constexpr int kIndexBits = 16;
    struct Pending {
        int number = -1;
        int jobs_left = 0;
        std::optional<Error> error;
    };

    std::vector<RowJob> jobs(int number, int index, std::byte* slot) const {
        const auto [from, into] = records_->slice(number, index);
        return packing_jobs(records_->files()[static_cast<std::size_t>(from.file)], from, into.spec,
                            slot ? slot + into.offset : nullptr);
    }

    void deliver(std::vector<Arrival>& out) {
        for (const RowsDone& done : done_) {
            const auto record = static_cast<std::size_t>(done.tag >> kIndexBits);
            const int index = static_cast<int>(done.tag & ((1u << kIndexBits) - 1));
            Pending& pending = pending_[record];
            if (done.error && !pending.error)
                pending.error = with_context(
                    text(records_->name(pending.number), ", ", records_->slice_name(pending.number, index)),
                    *done.error);
            if (--pending.jobs_left > 0) continue;
            out.push_back({pending.number, std::move(pending.error)});
            free_.push_back(record);
        }
        done_.clear();
    }

    const std::shared_ptr<const Records> records_;
    RowReader rows_;
    std::vector<Pending> pending_;   // by record number
    std::vector<std::size_t> free_;  // record numbers not in use
    std::vector<RowsDone> done_;     // kept for its memory, empty between calls
};

}  // namespace

std::unique_ptr<RecordSource> make_checkpoint_source(std::shared_ptr<const Records> records, io::Reader& reader,
                                                     memory::Staging& staging, ThreadPool& pool, const Clock& clock) {
    return std::make_unique<CheckpointSource>(std::move(records), reader, staging, pool, clock);
}

}  // namespace moestro::store
