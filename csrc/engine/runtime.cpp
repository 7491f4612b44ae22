#include "engine/runtime.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/entry.h"
#include "engine/runtime_state.h"
#include "kernels/accelerator.h"

namespace moestro::engine {

Ticket::Ticket(std::shared_ptr<exec::Submission> submission, const void* owner, int rows, int hidden)
    : submission_(std::move(submission)), owner_(owner), rows_(rows), hidden_(hidden) {}

Ticket::~Ticket() {
    if (submission_) submission_->abandon();
}

Ticket& Ticket::operator=(Ticket&& other) noexcept {
    std::swap(submission_, other.submission_);
    std::swap(owner_, other.owner_);
    std::swap(rows_, other.rows_);
    std::swap(hidden_, other.hidden_);
    return *this;
}

Runtime::Runtime(const RuntimeOptions& options, const World& world) : state_(std::make_unique<State>(options, world)) {}
Runtime::~Runtime() = default;

const std::shared_ptr<kernels::Compute>& Runtime::compute() const {
    return state_->trunk_compute;
}
const std::shared_ptr<kernels::Compute>& Runtime::processor() const {
    return state_->compute;
}
const std::shared_ptr<kernels::Accelerator>& Runtime::accelerator() const {
    return state_->accelerator;
}
const std::shared_ptr<memory::Ledger>& Runtime::device_ledger() const {
    return state_->device_ledger;
}
const std::shared_ptr<memory::Ledger>& Runtime::ledger() const {
    return state_->ledger;
}

const std::shared_ptr<TraceRing>& Runtime::trace() const {
    return state_->trace;
}

// ---- one step -------------------------------------------------------------------------------------------------------

void Runtime::begin_step(int rows, std::span<const std::uint8_t> tentative, std::optional<int> units,
                         std::span<const std::int32_t> tokens) {
    const Entry entry(*state_);
    state_->log.begin(rows, tentative, tokens);
    state_->recorder.begin_step();
    state_->step_began = state_->clock->now();
    if (state_->lanes) state_->lanes->advance(static_cast<Nanos>(state_->options.emulated->step.at(rows)));
    state_->grow();
    if (state_->stream) state_->stream->begin(units.value_or(state_->stream->units()));
    if (state_->cache) {
        state_->step_limit = state_->cache->limit();
        state_->step_run = state_->runner->counters();
        state_->step_cached = state_->cache->counters();
        state_->step_source = state_->cache->source_counters();
    }
    if (state_->prefetcher) state_->prefetcher->begin_step(state_->log.tokens());
}

void Runtime::hold_unit(int unit) {
    const Entry entry(*state_);
    state_->streamed().hold(unit);
}

void Runtime::release_unit(int unit) {
    const Entry entry(*state_);
    state_->streamed().release(unit);
}

Ticket Runtime::submit_experts(int layer, const float* x, int rows, const std::int32_t* ids, const float* weights,
                               int top_k, const float* logits, const float* x_there) {
    const Entry entry(*state_);
    exec::LayerRunner& runner = state_->experts();
    const store::Catalog& catalog = *state_->catalog;
    state_->log.check(catalog, layer, rows);
    if (state_->lanes) {
        const Nanos begin = state_->clock->now();
        state_->lanes->advance(static_cast<Nanos>(state_->options.emulated->layer.at(rows)));
        state_->trace->add({.activity = Activity::attention,
                            .layer = layer,
                            .count = rows,
                            .submitted = begin,
                            .started = begin,
                            .done = state_->clock->now()});
        for (residency::ExpertCache* cache : state_->caches) cache->poll();
    }
    state_->routed_whole = rows == state_->log.rows();
    if (state_->prefetcher && state_->routed_whole) {
        const std::size_t pairs = static_cast<std::size_t>(rows) * static_cast<std::size_t>(std::max(0, top_k));
        state_->prefetcher->routed(layer, {{ids, pairs}, rows, top_k});
    }
    auto submission = runner.submit(layer, x, rows, ids, weights, top_k, x_there);
    const int hidden = catalog.layer(layer).gate.spec.cols;
    Ticket ticket(std::move(submission), state_.get(), rows, hidden);
    state_->log.add(catalog, layer, ids, rows, top_k);
    if (state_->cache->wants_scores() || state_->recorder.on())
        state_->log.add_scores(catalog, layer, logits, ids, weights, rows, top_k);
    if (logits) state_->recorder.routed(catalog.position(layer), logits, rows, catalog.layer(layer).experts());
    return ticket;
}

int Runtime::lookahead() const {
    return std::max(state_->recorder.on() ? state_->recorder.ahead() : 0,
                    state_->prefetcher ? state_->prefetcher->lookahead() : 0);
}

void Runtime::foresee(int layer, int target, float* logits, int rows, int top_k,
                      const std::function<const std::int32_t*(const float* logits)>& choose) {
    const Entry entry(*state_);
    State& state = *state_;
    static_cast<void>(state.experts());
    const std::size_t from = state.catalog->position(layer), to = state.catalog->position(target);
    require(to > from, ErrorKind::usage, "layer ", target, " does not come after layer ", layer);
    const int distance = static_cast<int>(to - from), experts = state.catalog->layer(target).experts();
    const std::size_t width = static_cast<std::size_t>(experts), count = static_cast<std::size_t>(rows) * width;
    state.recorder.foreseen(to, distance, logits, count);
    if (to < state.options.offsets.size() && static_cast<std::size_t>(distance) <= state.options.offsets[to].size()) {
        const std::vector<float>& offset = state.options.offsets[to][static_cast<std::size_t>(distance - 1)];
        require(offset.size() == width, ErrorKind::usage, "offsets of layer ", target, ": expected ", experts,
                " values; got ", offset.size());
        for (std::size_t i = 0; i < count; ++i) logits[i] += offset[i % width];
    }
    const policy::Thought thought =
        state.log.add_ahead(*state.catalog, target, distance, logits, choose(logits), rows, top_k);
    if (state.prefetcher && state.routed_whole && distance <= state.prefetcher->lookahead())
        state.prefetcher->ahead(layer, target, thought);
}

void Runtime::advise(int layer) {
    const Entry entry(*state_);
    if (state_->prefetcher && state_->routed_whole) state_->prefetcher->advise(layer);
}

Recorded Runtime::take_record() {
    const Entry entry(*state_);
    require(state_->recorder.on() && state_->catalog, ErrorKind::usage,
            "this runtime records no routing: it needs record_rows, and experts");
    return state_->recorder.take(*state_->catalog);
}

void Runtime::wait(Ticket& ticket, float* y) {
    const Entry entry(*state_);
    require(ticket.submission_ != nullptr, ErrorKind::usage, "this ticket is empty: nothing was submitted with it");
    require(ticket.owner_ == state_.get(), ErrorKind::usage, "this ticket is of another runtime");
    state_->experts().wait(*ticket.submission_, y);
}

void Runtime::end_step(std::span<const std::uint8_t> accepted) {
    const Entry entry(*state_);
    State& state = *state_;
    state.log.check_accepted(accepted);
    if (state.runner) {
        state.runner->sweep();
        require(state.runner->open() == 0, ErrorKind::usage, state.runner->open(),
                " tickets of this step were not waited for: wait for them, or abort the step");
        state.recorder.end_step(state.log, *state.catalog, state.measured(), accepted);  // may refuse the step
        state.log.replay(
            *state.catalog, accepted,
            [&](int row) {
                for (residency::ExpertCache* cache : state.caches) cache->token();
                if (state.prefetcher) state.prefetcher->token(state.log.tokens()[static_cast<std::size_t>(row)]);
            },
            [&](int layer, std::span<const policy::ScoredExpert> best) {
                for (residency::ExpertCache* cache : state.caches) cache->scored(layer, best);
            },
            [&](ExpertId id) {
                for (residency::ExpertCache* cache : state.caches) cache->used(id);
                if (state.prefetcher) state.prefetcher->used(id);
            });
        if (state.prefetcher) state.prefetcher->end_step();
        if (state.trial && state.trial->step(state.log.rows(), state.clock->now() - state.step_began))
            state.runner->schedule().set_planner(state.trial->current());
    }
    ++state.steps;
    state.rows += accepted.empty()
                      ? static_cast<std::uint64_t>(state.log.rows())
                      : accepted.size() - static_cast<std::size_t>(std::count(accepted.begin(), accepted.end(), 0));
    state.trace->add({.activity = Activity::step,
                      .count = state.log.rows(),
                      .submitted = state.step_began,
                      .started = state.step_began,
                      .done = state.clock->now()});
    state.log.end();
}

void Runtime::abort_step() {
    const Entry entry(*state_);
    if (state_->runner) state_->runner->abandon_all();
    if (state_->stream) state_->stream->release_all();
    if (state_->prefetcher) state_->prefetcher->abort_step();
    state_->log.end();
    if (!state_->accelerator) return;
    try {
        state_->accelerator->settle();
    } catch (const Error&) {  // of the step that is dropped
    }
}

// ---- looking --------------------------------------------------------------------------------------------------------

Counters Runtime::counters() const {
    std::lock_guard lock(state_->looking);
    return state_->published.counters;
}

Residency Runtime::residency() const {
    std::lock_guard lock(state_->looking);
    return state_->published.residency;
}

std::vector<exec::PrefetchCounters> Runtime::prefetch_counters() const {
    std::lock_guard lock(state_->looking);
    return state_->published.prefetch;
}

io::ReaderInfo Runtime::reader_info() const {
    return state_->reader->info();
}

std::vector<std::string> Runtime::refused() const {
    std::vector<std::string> all = state_->compute->isa().refused;
    for (std::string& reason : state_->reader->info().refused) all.push_back(std::move(reason));
    std::lock_guard lock(state_->looking);
    for (const auto& file : state_->files)
        if (!file->refusal().empty()) all.push_back(file->refusal());
    for (const std::string& reason : state_->published.refused) all.push_back(reason);
    return all;
}

bool Runtime::virtual_time() const {
    return state_->lanes != nullptr;
}

std::string Runtime::schedule() const {
    std::lock_guard lock(state_->looking);
    return state_->published.schedule;
}

std::string Runtime::file_mode() const {
    std::lock_guard lock(state_->looking);
    const store::Files& files = state_->files;
    if (files.empty()) return "none";
    const auto direct = std::count_if(files.begin(), files.end(), [](const auto& file) { return file->direct(); });
    if (direct == 0) return "buffered";
    return static_cast<std::size_t>(direct) == files.size() ? "direct" : "mixed";
}

int Runtime::hidden(int layer) const {
    require(state_->catalog != nullptr, ErrorKind::usage, "this runtime has no experts: call set_experts first");
    return state_->catalog->layer(layer).gate.spec.cols;
}

int Runtime::experts(int layer) const {
    require(state_->catalog != nullptr, ErrorKind::usage, "this runtime has no experts: call set_experts first");
    return state_->catalog->layer(layer).experts();
}

std::vector<std::size_t> Runtime::record_sizes() const {
    require(state_->catalog != nullptr, ErrorKind::usage, "this runtime has no experts: call set_experts first");
    std::vector<std::size_t> sizes;
    for (const store::ExpertTable::Layer& layer : state_->catalog->sizes()) sizes.push_back(layer.record_bytes);
    return sizes;
}

void Runtime::check_integrity() const {
    const Entry entry(*state_);
    state_->ledger->check_integrity();
    if (state_->runner) state_->runner->sweep();
    for (const residency::ExpertCache* cache : state_->caches) cache->check_integrity();
    if (state_->stream) state_->stream->check_integrity();
    const bool loading = state_->cache && state_->cache->loading() > 0;
    MOESTRO_CHECK(loading || state_->staging.idle());
    MOESTRO_CHECK(loading || state_->reader->in_flight() == 0);
}

// ---- sizes ----------------------------------------------------------------------------------------------------------

std::size_t Runtime::scratch_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t hidden,
                                   std::int64_t intermediate, bool integer, std::int64_t layers, kernels::Math math,
                                   std::int64_t ahead) {
    return exec::LayerRunner::scratch_bytes(rows, top_k, hidden, intermediate, integer, math) +
           StepLog::bytes(rows, top_k, layers, ahead);
}

std::size_t Runtime::record_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers, std::int64_t ahead) {
    return Recorder::bytes(rows, top_k, layers, ahead);
}

}  // namespace moestro::engine
