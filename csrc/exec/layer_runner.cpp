#include "exec/layer_runner.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "kernels/accelerator.h"

namespace moestro::exec {

namespace {

std::int64_t piece_pairs_at_most(std::int64_t rows, std::int64_t top_k) {
    return std::max(rows, std::min(rows * top_k, LayerSchedule::Piece().rows));
}

bool integer(const store::ExpertLayer& layer) {
    return quant::is_integer(layer.gate.spec.format) || quant::is_integer(layer.up.spec.format);
}

kernels::Matrix matrix(const store::Part& part, const std::byte* record, const float* bias) {
    return {.data = record + part.offset, .spec = part.spec, .bias = bias};
}

}  // namespace

// What computes a submission's tasks: kernels.
class LayerRunner::Hands final : public Workers {
  public:
    Hands(LayerRunner& runner, const Submission& submission) : runner_(runner), submission_(submission) {}

    void on_cpu(const LayerRun&, std::span<const int> tasks) override {
        if (std::exchange(unprepared_, false)) runner_.prepare_rows(submission_);
        collect(tasks, false);
        kernels::experts(runner_.compute_, runner_.activations_, runner_.jobs_, runner_.mlp_);
    }
    device::Event on_device(const LayerRun&, std::span<const int> tasks, const device::Event& after,
                            Nanos takes) override {
        collect(tasks, true);
        return runner_.device_.rows->run(runner_.jobs_, integer(*submission_.layer_), after, takes);
    }

  private:
    void collect(std::span<const int> tasks, bool on_device) {
        runner_.jobs_.clear();
        for (const int group : tasks) runner_.jobs_.push_back(runner_.job(submission_, group, on_device));
    }

    LayerRunner& runner_;
    const Submission& submission_;
    bool unprepared_ = runner_.device_.rows != nullptr;  // rows for the processor, which may compute nothing
};

LayerRunner::LayerRunner(const store::Catalog& catalog, const residency::Tiers& tiers, kernels::Compute& compute,
                         const Clock& clock, LiveCosts* costs, DeviceSide device, std::vector<policy::LaneCosts> known)
    : catalog_(catalog),
      compute_(compute),
      clock_(clock),
      schedule_(tiers, catalog, clock, costs, std::move(known)),
      device_(std::move(device)) {
    MOESTRO_CHECK(tiers.has_device() == (device_.rows != nullptr) && (device_.rows || !device_.compute));
}

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
                                                const float* weights, int top_k, const float* x_there) {
    sweep();
    require(rows >= 0 && top_k >= 1, ErrorKind::usage, "experts run on rows and a top_k of at least 1; got ", rows,
            " rows, top_k ", top_k);
    const store::ExpertLayer& experts = catalog_.layer(layer);
    std::shared_ptr<Submission> made = fresh();
    made->groups_.group(ids, rows, top_k, experts.experts());
    made->layer_ = &experts;
    made->x_ = x;
    made->x_there_ = x_there;
    made->rows_ = rows;
    made->top_k_ = top_k;
    made->weights_.assign(weights, weights + static_cast<std::size_t>(rows) * static_cast<std::size_t>(top_k));
    made->open_ = true;
    open_.push_back(made);
    tasks_.clear();
    for (int group = 0; group < made->groups_.distinct(); ++group)
        tasks_.push_back({{layer, made->groups_.expert(group)}, made->groups_.pairs(group)});
    schedule_.begin(made->run_, tasks_);
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
    const Nanos begin = clock_.now();
    prepare(submission);
    schedule_.add_compute(clock_.now() - begin);
    Hands hands(*this, submission);
    schedule_.finish(submission.run_, hands, [&] { return disarm_others(submission); });
    const Nanos end = clock_.now();
    combine(submission, y);
    schedule_.add_compute(clock_.now() - end);
}

void LayerRunner::prepare(const Submission& submission) {
    const int hidden = submission.layer_->gate.spec.cols;
    const std::size_t pairs = submission.weights_.size();
    const std::size_t bytes = pairs * static_cast<std::size_t>(hidden) * sizeof(float);
    MOESTRO_CHECK(!submission.x_there_ || device_.compute);
    if (!submission.x_there_ && outputs_.size() < bytes) {
        outputs_ = {};  // before the larger one: never both
        outputs_ = PageBuffer(bytes);
    }
    if (!device_.rows)
        prepare_rows(submission);
    else
        device_.rows->begin(submission.x_, submission.x_there_, submission.rows_, pairs, hidden);
}

void LayerRunner::prepare_rows(const Submission& submission) {
    activations_.prepare(compute_, submission.x_, submission.rows_, submission.layer_->gate.spec.cols,
                         integer(*submission.layer_));
}

// One group's expert, with its outputs at the group's place among all.
kernels::ExpertJob LayerRunner::job(const Submission& submission, int group, bool on_device) const {
    const store::ExpertLayer& layer = *submission.layer_;
    const Grouping& groups = submission.groups_;
    const std::byte* const record = submission.run_.record(group);
    const int expert = groups.expert(group);
    const std::size_t hidden = static_cast<std::size_t>(layer.gate.spec.cols);
    const auto bias = [&](int part) -> const float* {
        const float* const here = layer.bias(part, expert);
        if (!here || !on_device || device_.biases.empty()) return here;
        const auto& there = device_.biases[catalog_.position(layer.layer)][static_cast<std::size_t>(part)];
        return reinterpret_cast<const float*>(there.data()) + (here - layer.bias(part, 0));
    };
    float* const outputs = on_device ? device_.rows->outputs() : this->outputs(submission);
    return {{matrix(layer.gate, record, bias(0)), matrix(layer.up, record, bias(1)),
             matrix(layer.down, record, bias(2)), layer.kind},
            groups.rows(group),
            outputs + static_cast<std::size_t>(groups.begin(group)) * hidden};
}

// Takes back what other open submissions pinned ahead of their turn; they pin it again in their own wait().
bool LayerRunner::disarm_others(const Submission& submission) {
    bool any = false;
    for (const std::shared_ptr<Submission>& other : open_) {
        if (other.get() != &submission) any |= schedule_.disarm(other->run_);
    }
    return any;
}

// Where the processor leaves outputs: for a device, in memory that it reaches.
float* LayerRunner::outputs(const Submission& submission) const {
    return submission.x_there_ ? device_.rows->outputs() : reinterpret_cast<float*>(outputs_.data());
}

void LayerRunner::combine(const Submission& submission, float* y) {
    const int hidden = submission.layer_->gate.spec.cols;
    const float* const by_cpu = outputs(submission);
    pointers_.clear();
    pointers_.reserve(submission.weights_.size());
    for (const std::int32_t place : submission.groups_.places())
        pointers_.push_back(by_cpu + std::ptrdiff_t{place} * hidden);
    if (device_.rows) take_from_device(submission);
    kernels::combine(submission.x_there_ ? *device_.compute : compute_, pointers_, submission.weights_.data(),
                     submission.rows_, submission.top_k_, hidden, y);
}

// The outputs of what the device computed are elsewhere. Where they stay there, the others come to them.
void LayerRunner::take_from_device(const Submission& submission) {
    const Grouping& groups = submission.groups_;
    const int hidden = submission.layer_->gate.spec.cols;
    on_device_.assign(submission.weights_.size(), false);  // by place
    for (int group = 0; group < groups.distinct(); ++group)
        if (submission.run_.on_device(group))
            std::fill_n(on_device_.begin() + groups.begin(group), groups.pairs(group), true);
    for (std::size_t pair = 0; pair < pointers_.size(); ++pair) {
        const std::int32_t place = groups.places()[pair];
        const float* const y = device_.rows->outputs() + std::ptrdiff_t{place} * hidden;
        const bool made_there = on_device_[static_cast<std::size_t>(place)];
        if (made_there || (submission.x_there_ && !device_.rows->reached())) pointers_[pair] = device_.rows->made(y);
        if (submission.x_there_ && !made_there && !device_.rows->reached())
            device_.compute->accelerator()->put(const_cast<float*>(device_.rows->made(y)), y,
                                                static_cast<std::size_t>(hidden) * sizeof(float));
    }
}

// ---- the end of a submission ----------------------------------------------------------------------------------------

void LayerRunner::close(Submission& submission) {
    schedule_.end(submission.run_);
    submission.open_ = false;
    submission.x_ = submission.x_there_ = nullptr;
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
