#include "engine/runtime.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "engine/entry.h"
#include "engine/runtime_state.h"

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
    return state_->compute;
}
const std::shared_ptr<memory::Ledger>& Runtime::ledger() const {
    return state_->ledger;
}

const std::shared_ptr<TraceRing>& Runtime::trace() const {
    return state_->trace;
}

// ---- one step -------------------------------------------------------------------------------------------------------

void Runtime::begin_step(int rows, std::span<const std::uint8_t> tentative, std::optional<int> units) {
    const Entry entry(*state_);
    state_->log.begin(rows, tentative);
    state_->step_began = state_->clock->now();
    state_->grow();
    if (state_->stream) state_->stream->begin(units.value_or(state_->stream->units()));
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
                               int top_k, const float* logits) {
    const Entry entry(*state_);
    exec::LayerRunner& runner = state_->experts();
    state_->log.check(*state_->catalog, layer, rows);
    auto submission = runner.submit(layer, x, rows, ids, weights, top_k);
    const int hidden = state_->catalog->layer(layer).gate.spec.cols;
    Ticket ticket(std::move(submission), state_.get(), rows, hidden);
    state_->log.add(*state_->catalog, layer, ids, rows, top_k);
    if (state_->cache->wants_scores())
        state_->log.add_scores(*state_->catalog, layer, logits, ids, weights, rows, top_k);
    return ticket;
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
        state.log.replay(
            *state.catalog, accepted, [&] { state.cache->token(); },
            [&](int layer, std::span<const policy::ScoredExpert> best) { state.cache->scored(layer, best); },
            [&](ExpertId id) { state.cache->used(id); });
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
    state_->log.end();
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

io::ReaderInfo Runtime::reader_info() const {
    return state_->reader->info();
}

std::vector<std::string> Runtime::refused() const {
    std::vector<std::string> all = state_->compute->isa().refused;
    for (std::string& reason : state_->reader->info().refused) all.push_back(std::move(reason));
    std::lock_guard lock(state_->looking);
    for (const auto& file : state_->files)
        if (!file->refusal().empty()) all.push_back(file->refusal());
    return all;
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

void Runtime::check_integrity() const {
    const Entry entry(*state_);
    state_->ledger->check_integrity();
    if (state_->runner) state_->runner->sweep();
    if (state_->cache) state_->cache->check_integrity();
    if (state_->stream) state_->stream->check_integrity();
    const bool loading = state_->cache && state_->cache->loading() > 0;
    MOESTRO_CHECK(loading || state_->staging.idle());
    MOESTRO_CHECK(loading || state_->reader->in_flight() == 0);
}

// ---- sizes ----------------------------------------------------------------------------------------------------------

std::size_t Runtime::scratch_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t hidden,
                                   std::int64_t intermediate, bool integer, std::int64_t layers, kernels::Math math) {
    return exec::LayerRunner::scratch_bytes(rows, top_k, hidden, intermediate, integer, math) +
           StepLog::bytes(rows, top_k, layers);
}

}  // namespace moestro::engine
