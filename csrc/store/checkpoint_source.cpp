// A Hugging Face checkpoint in place: gate, up and down are read through staging and interleaved into the slot's record
// layout as they come.
#include <utility>

#include "store/read_check.h"
#include "store/record_source.h"
#include "store/row_reader.h"

namespace moestro::store {

namespace {

constexpr std::size_t kParts = 3;
constexpr const char* kPartNames[kParts] = {"gate", "up", "down"};

class CheckpointSource final : public RecordSource {
  public:
    CheckpointSource(std::shared_ptr<const Catalog> catalog, io::Reader& reader, memory::Staging& staging,
                     ThreadPool& pool, const Clock& clock)
        : catalog_(std::move(catalog)), rows_(reader, staging, pool, clock) {
        // Now, and never when a record was given its slot and nobody could tell its cache any more.
        for (const ExpertLayer& layer : catalog_->layers())
            for (std::size_t expert = 0; expert < layer.slices.size(); ++expert)
                for (std::size_t part = 0; part < kParts; ++part) rows_.require_room(job(layer, expert, part));
    }

    void start(ExpertId id, std::byte* slot, bool urgent) override {
        if (free_.empty()) {
            pending_.emplace_back();
            free_.push_back(pending_.size() - 1);
        }
        const std::size_t record = free_.back();
        free_.pop_back();
        pending_[record] = {id, kParts, {}};
        const ExpertLayer& layer = catalog_->layer(id.layer);
        for (std::size_t part = 0; part < kParts; ++part) {
            const Part& into = *layer.parts()[part];
            RowJob rows = job(layer, static_cast<std::size_t>(id.expert), part);
            rows.consume = pack_into(into.spec, slot + into.offset);
            rows.tag = record * kParts + part;
            rows.urgent = urgent;
            rows_.push(std::move(rows));
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
    struct Pending {
        ExpertId id;
        std::size_t parts_left = 0;
        std::optional<Error> error;
    };

    RowJob job(const ExpertLayer& layer, std::size_t expert, std::size_t part) const {
        const TensorSlice& slice = layer.slices[expert][part];
        return {.file = catalog_->files()[static_cast<std::size_t>(slice.file)],
                .slice = slice,
                .panel_rows = layer.parts()[part]->spec.panel_rows(),
                .consume = {}};
    }

    void deliver(std::vector<Arrival>& out) {
        for (const RowsDone& done : done_) {
            const std::size_t record = static_cast<std::size_t>(done.tag) / kParts;
            Pending& pending = pending_[record];
            if (done.error && !pending.error)
                pending.error = with_context(text("layer ", pending.id.layer, ", expert ", pending.id.expert, ", ",
                                                  kPartNames[done.tag % kParts]),
                                             *done.error);
            if (--pending.parts_left > 0) continue;
            out.push_back({pending.id, std::move(pending.error)});
            free_.push_back(record);
        }
        done_.clear();
    }

    const std::shared_ptr<const Catalog> catalog_;
    RowReader rows_;
    std::vector<Pending> pending_;   // by record number
    std::vector<std::size_t> free_;  // record numbers not in use
    std::vector<RowsDone> done_;     // kept for its memory, empty between calls
};

}  // namespace

std::unique_ptr<RecordSource> make_checkpoint_source(std::shared_ptr<const Catalog> catalog, io::Reader& reader,
                                                     memory::Staging& staging, ThreadPool& pool, const Clock& clock) {
    return std::make_unique<CheckpointSource>(std::move(catalog), reader, staging, pool, clock);
}

}  // namespace moestro::store
