#include "exec/layer_runner.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace moestro::exec {

namespace {

// Experts computed between two looks at the disk: enough to keep all threads busy, little enough that reads go on.
constexpr std::int64_t kPiecePairs = 256;
constexpr std::size_t kPieceBytes = std::size_t{64} << 20;

std::int64_t piece_pairs_at_most(std::int64_t rows, std::int64_t top_k) {
    return std::max(rows, std::min(rows * top_k, kPiecePairs));
}

bool integer(const store::ExpertLayer& layer) {
    return quant::is_integer(layer.gate.spec.format) || quant::is_integer(layer.up.spec.format);
}

kernels::Matrix matrix(const store::Part& part, const std::byte* record, const float* bias) {
    return {.data = record + part.offset, .spec = part.spec, .bias = bias};
}

class Timer {
  public:
    Timer(const Clock& clock, Nanos& total) : clock_(clock), total_(total), begin_(clock.now()) {}
    ~Timer() { total_ += clock_.now() - begin_; }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

  private:
    const Clock& clock_;
    Nanos& total_;
    const Nanos begin_;
};

}  // namespace

LayerRunner::LayerRunner(const store::Catalog& catalog, residency::ExpertCache& cache, kernels::Compute& compute,
                         const Clock& clock, LiveCosts* costs)
    : catalog_(catalog), cache_(cache), compute_(compute), clock_(clock), costs_(costs) {}

LayerRunner::~LayerRunner() {
    abandon_all();
}

std::size_t LayerRunner::scratch_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t hidden,
                                       std::int64_t intermediate, bool integer, kernels::Math math) {
    const std::size_t pairs = static_cast<std::size_t>(rows * top_k);
    const std::size_t outputs = round_up(pairs * static_cast<std::size_t>(hidden) * sizeof(float), kPageBytes);
    const std::size_t routing = pairs * (sizeof(const float*) + sizeof(float) + 2 * sizeof(std::int32_t));
    return outputs + routing + kernels::Activations::bytes(rows, hidden, integer, math) +
           kernels::MlpScratch::bytes(piece_pairs_at_most(rows, top_k), intermediate, integer, math);
}

// ---- submit ---------------------------------------------------------------------------------------------------------

std::shared_ptr<Submission> LayerRunner::submit(int layer, const float* x, int rows, const std::int32_t* ids,
                                                const float* weights, int top_k) {
    sweep();
    require(rows >= 0 && top_k >= 1, ErrorKind::usage, "experts run on rows and a top_k of at least 1; got ", rows,
            " rows, top_k ", top_k);
    const store::ExpertLayer& experts = catalog_.layer(layer);
    std::shared_ptr<Submission> made = fresh();
    made->groups_.group(ids, rows, top_k, experts.experts());
    made->layer_ = &experts;
    made->x_ = x;
    made->rows_ = rows;
    made->top_k_ = top_k;
    made->weights_.assign(weights, weights + static_cast<std::size_t>(rows) * static_cast<std::size_t>(top_k));
    made->open_ = true;
    made->submitted_ = clock_.now();
    open_.push_back(made);
    ids_.clear();
    for (int group = 0; group < made->groups_.distinct(); ++group) ids_.push_back({layer, made->groups_.expert(group)});
    made->wave_.begin(cache_, ids_);
    count(made->wave_);
    return made;
}

std::shared_ptr<Submission> LayerRunner::fresh() {
    const auto unused =
        std::find_if(spare_.begin(), spare_.end(), [](const auto& one) { return one.use_count() == 1; });
    if (unused == spare_.end()) return std::make_shared<Submission>();
    std::shared_ptr<Submission> taken = std::move(*unused);
    spare_.erase(unused);
    taken->abandoned_ = false;
    return taken;
}

void LayerRunner::count(const residency::Wave& wave) {
    for (int group = 0; group < wave.size(); ++group)
        ++(wave.found(group) == residency::State::host      ? counters_.hits
           : wave.found(group) == residency::State::loading ? counters_.joined
                                                            : counters_.misses);
}

// ---- wait -----------------------------------------------------------------------------------------------------------

void LayerRunner::wait(Submission& submission, float* y) {
    sweep();
    require(submission.open_, ErrorKind::usage, "this ticket is over: it was waited for, or its step was ended");
    struct Close {
        LayerRunner& runner;
        Submission& submission;
        ~Close() { runner.close(submission); }
    } close{*this, submission};
    if (submission.rows_ == 0) return;
    prepare(submission);
    run(submission);
    combine(submission, y);
}

void LayerRunner::prepare(const Submission& submission) {
    const Timer timer(clock_, counters_.compute_ns);
    const int hidden = submission.layer_->gate.spec.cols;
    const std::size_t pairs = submission.weights_.size();
    const std::size_t bytes = pairs * static_cast<std::size_t>(hidden) * sizeof(float);
    if (outputs_.size() < bytes) {
        outputs_ = {};  // before the larger one: never both
        outputs_ = PageBuffer(bytes);
    }
    activations_.prepare(compute_, submission.x_, submission.rows_, hidden, integer(*submission.layer_));
}

void LayerRunner::run(Submission& submission) {
    while (submission.wave_.left() > 0) {
        submission.wave_.acquire();
        if (compute_some(submission))
            cache_.poll();
        else
            stall(submission);
        if (prefetcher_) prefetcher_->go_on();
    }
}

// Computes a piece of what is ready and unpins it; false when nothing is.
bool LayerRunner::compute_some(Submission& submission) {
    jobs_.clear();
    piece_.clear();
    piece_pairs_ = 0;
    piece_bytes_ = 0;
    piece_ready_ = 0;
    collect(submission, true);
    collect(submission, false);
    if (jobs_.empty()) return false;
    const Nanos begin = clock_.now();
    for (const int group : piece_) counters_.queued_ns += begin - ready(submission, group);
    kernels::experts(compute_, activations_, jobs_, mlp_);
    const Nanos end = clock_.now();
    counters_.compute_ns += end - begin;
    if (costs_) costs_->computed(static_cast<int>(piece_.size()), piece_pairs_, end - begin);
    if (trace_)
        trace_->add({.activity = Activity::experts,
                     .layer = submission.layer_->layer,
                     .count = static_cast<std::int32_t>(piece_.size()),
                     .submitted = piece_ready_,
                     .started = begin,
                     .done = end});
    for (const int group : piece_) submission.wave_.done(group);
    return true;
}

// Adds experts whose records are complete until the piece is full; those that were resident from the start first.
void LayerRunner::collect(Submission& submission, bool hits) {
    const store::ExpertLayer& layer = *submission.layer_;
    for (int group = 0; group < submission.groups_.distinct(); ++group) {
        const residency::Wave& wave = submission.wave_;
        const bool hit = wave.found(group) == residency::State::host;
        if (hit != hits || wave.stage(group) != residency::Wave::Stage::pinned) continue;
        const residency::Pin& pin = wave.pin(group);
        if (pin.state() == residency::State::failed) throw pin.error();
        if (pin.state() != residency::State::host) continue;
        const std::int64_t pairs = submission.groups_.pairs(group);
        const bool full = piece_pairs_ + pairs > kPiecePairs || piece_bytes_ + layer.record_bytes > kPieceBytes;
        if (!jobs_.empty() && full) return;
        const std::byte* record = pin.data();
        const int expert = submission.groups_.expert(group);
        jobs_.push_back(
            {{matrix(layer.gate, record, layer.bias(0, expert)), matrix(layer.up, record, layer.bias(1, expert)),
              matrix(layer.down, record, layer.bias(2, expert)), layer.kind},
             submission.groups_.rows(group),
             output(submission, submission.groups_.begin(group))});
        piece_.push_back(group);
        piece_pairs_ += pairs;
        piece_bytes_ += layer.record_bytes;
        piece_ready_ = std::max(piece_ready_, ready(submission, group));
    }
}

// When an expert could first be computed.
Nanos LayerRunner::ready(const Submission& submission, int group) {
    return std::max(submission.submitted_, submission.wave_.pin(group).ready());
}

void LayerRunner::stall(Submission& submission) {
    // Otherwise all slots are held by other submissions, or by loads nobody waits for any more.
    if (!submission.wave_.waiting() && disarm_others(submission)) return;
    MOESTRO_CHECK(cache_.loading() > 0);
    const Nanos arrivals_before = cache_.source_counters().arrival_ns, begin = clock_.now();
    cache_.wait();
    const Nanos end = clock_.now();
    counters_.stall_ns += end - begin - (cache_.source_counters().arrival_ns - arrivals_before);
    if (trace_)
        trace_->add({.activity = Activity::stall,
                     .layer = submission.layer_->layer,
                     .submitted = begin,
                     .started = begin,
                     .done = end});
}

// Takes back what other open submissions pinned ahead of their turn; they pin it again in their own wait().
bool LayerRunner::disarm_others(const Submission& submission) {
    bool any = false;
    for (const std::shared_ptr<Submission>& other : open_) {
        if (other.get() != &submission) any |= other->wave_.disarm();
    }
    return any;
}

float* LayerRunner::output(const Submission& submission, std::int32_t place) {
    const std::size_t hidden = static_cast<std::size_t>(submission.layer_->gate.spec.cols);
    return reinterpret_cast<float*>(outputs_.data()) + static_cast<std::size_t>(place) * hidden;
}

void LayerRunner::combine(const Submission& submission, float* y) {
    const Timer timer(clock_, counters_.compute_ns);
    pointers_.clear();
    pointers_.reserve(submission.weights_.size());
    for (const std::int32_t place : submission.groups_.places()) pointers_.push_back(output(submission, place));
    kernels::combine(compute_, pointers_, submission.weights_.data(), submission.rows_, submission.top_k_,
                     submission.layer_->gate.spec.cols, y);
}

// ---- the end of a submission ----------------------------------------------------------------------------------------

void LayerRunner::close(Submission& submission) {
    submission.wave_.end();
    submission.open_ = false;
    submission.x_ = nullptr;
    const auto at = std::find_if(open_.begin(), open_.end(), [&](const auto& one) { return one.get() == &submission; });
    spare_.push_back(std::move(*at));
    open_.erase(at);
}

void LayerRunner::abandon_all() {
    while (!open_.empty()) close(*open_.back());
}

void LayerRunner::sweep() {
    for (std::size_t i = open_.size(); i-- > 0;)
        if (open_[i]->abandoned_.load(std::memory_order_acquire)) close(*open_[i]);
}

}  // namespace moestro::exec
