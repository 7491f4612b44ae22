// The operations of a decoder step through kernels/cuda, on one stream. Short runs of calls that come again with every
// token are recorded as CUDA graphs.
#include "device/cuda/accelerator.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/types.h"
#include "device/cuda/carver.h"
#include "device/cuda/courier.h"
#include "device/cuda/errors.h"
#include "device/cuda/experts.h"
#include "kernels/cuda/launch.h"

namespace moestro::device::cuda {

namespace {

namespace on_gpu = kernels::cuda;

// A put() of more goes through CUDA's own staging, which waits for what the stream has to do.
constexpr std::size_t kSmall = 64 << 10;
// Rows of a step whose calls are worth recording: they come again with every token.
constexpr std::int64_t kRecordedRows = 8;
// Device memory that must be left for the arguments of a recording.
constexpr std::size_t kRecordingRoom = 256 << 10;

struct OwnStream {
    explicit OwnStream(const World& world) {
        world.enter();
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
    }
    ~OwnStream() {
        cudaStreamDestroy(stream);
        cudaGetLastError();
    }
    cudaStream_t stream = nullptr;
};

class CudaAccelerator final : public kernels::Accelerator {
  public:
    explicit CudaAccelerator(std::shared_ptr<World> world)
        : world_(std::move(world)),
          own_(std::make_shared<OwnStream>(*world_)),
          stream_(own_->stream),
          courier_(*world_),
          experts_(*world_, courier_, stream_) {
        fault_ = world_->allocate_work(sizeof(std::uint32_t));
        require(fault_.data(), ErrorKind::budget, world_->name, " has no room left for launches");
        fault_seen_ = world_->allocate_host(sizeof(std::uint32_t));
        clear_fault();
    }
    ~CudaAccelerator() override {
        if (cudaSetDevice(world_->options.ordinal) == cudaSuccess) cudaStreamSynchronize(stream_);
        cudaGetLastError();
    }

    // ---- memory -----------------------------------------------------------------------------------------------------
    std::shared_ptr<std::byte> allocate(std::size_t bytes) override {
        auto buffer = std::make_shared<Buffer>(world_->allocate(std::max<std::size_t>(bytes, 1)));
        std::byte* const data = buffer->data();
        // What was asked for until it goes may use it; nobody else may before that is over.
        return {data, [buffer = std::move(buffer), world = world_, own = own_](std::byte*) mutable {
                    if (cudaSetDevice(world->options.ordinal) == cudaSuccess) cudaStreamSynchronize(own->stream);
                    cudaGetLastError();
                    buffer.reset();
                }};
    }
    std::shared_ptr<std::byte> allocate_host(std::size_t bytes) override {
        auto buffer = std::make_shared<Buffer>(world_->allocate_host(bytes));
        all_reached_ = all_reached_ && buffer->pinned();
        return {buffer, buffer->data()};
    }
    bool reachable(const void* host) const override { return world_->reaches(host); }

    void put(void* to, const void* from, std::size_t bytes) override {
        world_->enter();
        const void* source = from;
        if (bytes <= kSmall)
            if (const void* const sent = courier_.send(from, bytes, stream_)) source = sent;
        copy_on_stream(to, source, bytes);
        if (source == from) check(cudaStreamSynchronize(stream_), "bring memory to the device");
    }
    void get(void* to, const void* from, std::size_t bytes) override { copy(to, from, bytes); }
    void copy(void* to, const void* from, std::size_t bytes) override {
        world_->enter();
        copy_on_stream(to, from, bytes);
    }
    void copy_rows(void* to, std::size_t to_step, const void* from, std::size_t from_step, std::size_t rows,
                   std::size_t bytes) override {
        world_->enter();
        if (rows == 0 || bytes == 0) return;
        check(cudaMemcpy2DAsync(to, to_step, from, from_step, bytes, rows, cudaMemcpyDeviceToDevice, stream_),
              "copy rows");
    }
    void zero(void* to, std::size_t bytes) override {
        world_->enter();
        check(cudaMemsetAsync(to, 0, bytes, stream_), "clear memory");
    }

    void settle() override {
        world_->enter();
        check(std::exchange(failed_, cudaSuccess), "launch recorded work");
        check(
            cudaMemcpyAsync(fault_seen_.data(), fault_.data(), sizeof(std::uint32_t), cudaMemcpyDeviceToHost, stream_),
            "read a fault");
        const auto done = std::make_shared<Done>(world_);
        courier_.close(done);
        check(cudaEventRecord(done->event(), stream_), "record an event");
        done->fault = reinterpret_cast<const std::uint32_t*>(fault_seen_.data());
        done->wait();
        if (*done->fault != 0) clear_fault();
        done->check();
    }

    // ---- repeats ----------------------------------------------------------------------------------------------------
    bool repeat(const Repeat& key) override {
        if (key.rows > kRecordedRows || !all_reached_) return false;  // what is not pinned cannot be recorded
        if (world_->work.changes() != seen_) {  // memory that recordings used may be somebody else's
            finish();
            graphs_.clear();
            seen_ = world_->work.changes();
        }
        // One of each: as a sequence grows, what was recorded for a shorter one is of no use.
        Recorded& recorded = graphs_[{key.what, key.rows}];
        if (recorded.key != key) {
            if (recorded.graph) finish();  // what is under way reads its arguments
            recorded = {};
            recorded.key = key;
            seen_ = world_->work.changes();
            return false;  // the first time memory grows to what is needed
        }
        world_->enter();
        if (recorded.graph) {
            check(cudaGraphLaunch(recorded.graph, stream_), "launch recorded work");
            return true;
        }
        if (never_ || world_->work.largest_gap() < kRecordingRoom) return false;
        check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "record work");
        courier_.keep(&recorded.arguments);
        recording_ = &recorded;
        return false;
    }
    void end_repeat(bool whole) noexcept override {
        Recorded* const recorded = std::exchange(recording_, nullptr);
        if (!recorded) return;
        courier_.keep(nullptr);
        cudaGraph_t graph = nullptr;
        cudaError_t status = cudaStreamEndCapture(stream_, &graph);
        if (status == cudaSuccess && whole) status = cudaGraphInstantiate(&recorded->graph, graph, 0);
        if (graph) cudaGraphDestroy(graph);
        // What was recorded was not done yet. Should that fail, the next call says so, and nothing is recorded any
        // more.
        if (recorded->graph && status == cudaSuccess) status = cudaGraphLaunch(recorded->graph, stream_);
        cudaGetLastError();
        if (whole && status != cudaSuccess) {
            failed_ = status;
            never_ = true;
        }
        seen_ = world_->work.changes();
    }

    // ---- operations -------------------------------------------------------------------------------------------------
    void linear(const kernels::Activations& x, std::span<const kernels::LinearJob> jobs) override {
        const on_gpu::LinearInputs inputs = prepare(x);
        items_.clear();
        for (const kernels::LinearJob& job : jobs) {
            on_gpu::LinearItem& item = items_.emplace_back();
            item.weight = job.weight;
            item.count = x.rows;
            item.y = job.y;
            item.ldy = job.ldy;
        }
        launched(on_gpu::linear(inputs, items_.data(), static_cast<int>(items_.size()), courier_, stream_), "linear");
    }
    void linear_by_head(const kernels::Activations& x, const kernels::HeadMatrices& weights, float* y,
                        std::int64_t ldy) override {
        const on_gpu::LinearInputs inputs = prepare(x);
        launched(on_gpu::linear_by_head(inputs, x.rows / weights.heads, weights, y, ldy, courier_, stream_),
                 "linear by head");
    }
    void experts(const kernels::Activations& x, std::span<const kernels::ExpertJob> jobs) override {
        world_->enter();
        experts_.run({jobs, x.x, x.rows, x.cols, x.has_codes}, fault());
    }
    void combine(std::span<const float* const> outputs, const float* weights, int rows, int top_k, int hidden,
                 float* y) override {
        world_->enter();
        const auto* const there =
            static_cast<const float* const*>(sent(outputs.data(), outputs.size() * sizeof(const float*)));
        const auto* const weights_there = static_cast<const float*>(sent(weights, outputs.size() * sizeof(float)));
        launched(on_gpu::combine(there, weights_there, rows, top_k, hidden, y, stream_), "combine");
    }
    void rms_norm(const float* x, const float* weight, float eps, int rows, int n, float* y) override {
        launched(on_gpu::rms_norm(x, weight, eps, rows, n, y, fault(), entered()), "rms_norm");
    }
    void layer_norm(const float* x, const float* weight, const float* bias, float eps, int rows, int n,
                    float* y) override {
        launched(on_gpu::layer_norm(x, weight, bias, eps, rows, n, y, fault(), entered()), "layer_norm");
    }
    void add(float* x, const float* y, std::int64_t count) override {
        launched(on_gpu::add(x, y, count, entered()), "add");
    }
    void add_scaled(float* x, float factor, const float* y, std::int64_t count) override {
        launched(on_gpu::add_scaled(x, factor, y, count, entered()), "add_scaled");
    }
    void scale(float* x, float factor, std::int64_t count) override {
        launched(on_gpu::scale(x, factor, count, entered()), "scale");
    }
    void sigmoid_mul(float* x, const float* gate, std::int64_t count) override {
        launched(on_gpu::sigmoid_mul(x, gate, count, entered()), "sigmoid_mul");
    }
    void clamp(float* x, float bound, std::int64_t count) override {
        launched(on_gpu::clamp(x, bound, count, entered()), "clamp");
    }
    void softcap(float* x, float cap, std::int64_t count) override {
        launched(on_gpu::softcap(x, cap, count, entered()), "softcap");
    }
    void scale_rows(float* x, const float* factors, int rows, int n) override {
        launched(on_gpu::scale_rows(x, factors, rows, n, entered()), "scale_rows");
    }
    void scale_rows_by_sigmoid(float* x, const float* logits, int rows, int n) override {
        launched(on_gpu::scale_rows_by_sigmoid(x, logits, rows, n, entered()), "scale_rows_by_sigmoid");
    }
    void route(const kernels::RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids,
               float* weights) override {
        launched(on_gpu::route(rule, logits, rows, experts, ids, weights, fault(), entered()), "route");
    }
    void rope(const kernels::RopeJob& job, const float* cos, const float* sin) override {
        launched(on_gpu::rope(job, cos, sin, entered()), "rope");
    }
    void kv_append(const kernels::KvLayout& layout, const float* k, const float* v, const std::int64_t* positions,
                   std::byte* const* blocks, std::size_t offset, int rows) override {
        launched(on_gpu::kv_append(layout, k, v, positions, blocks, offset, rows, fault(), entered()), "kv_append");
    }
    void attention(const kernels::AttentionJob& job, std::size_t offset, std::int64_t most_segments) override {
        on_gpu::AttentionLaunch launch{.job = job, .offset = offset, .most_segments = most_segments};
        launch.state_floats = on_gpu::attention_floats(job.layout, job.heads, job.rows, most_segments);
        launch.states = reinterpret_cast<float*>(room(states_, launch.state_floats * sizeof(float)));
        launched(on_gpu::attention(launch, entered()), "attention");
    }

  private:
    struct Recorded {
        Recorded() = default;
        Recorded& operator=(Recorded&& other) noexcept {
            std::swap(key, other.key);
            std::swap(graph, other.graph);
            std::swap(arguments, other.arguments);
            return *this;
        }
        ~Recorded() {
            if (graph) cudaGraphExecDestroy(graph);
        }
        Repeat key;
        cudaGraphExec_t graph = nullptr;  // null until its calls came a second time
        std::vector<Buffer> arguments;
    };

    std::uint32_t* fault() const { return reinterpret_cast<std::uint32_t*>(fault_.data()); }
    cudaStream_t entered() const {
        world_->enter();
        return stream_;
    }
    void launched(int status, const char* what) const {
        check(std::exchange(failed_, cudaSuccess), "launch recorded work");
        check(static_cast<cudaError_t>(status), what);
    }
    void finish() const { check(cudaStreamSynchronize(stream_), "finish a stream's work"); }
    void clear_fault() { check(cudaMemsetAsync(fault_.data(), 0, sizeof(std::uint32_t), stream_), "clear memory"); }
    void copy_on_stream(void* to, const void* from, std::size_t bytes) const {
        if (bytes > 0) check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "copy");
    }
    const void* sent(const void* data, std::size_t bytes) {
        const void* const there = courier_.send(data, bytes, stream_);
        require(there != nullptr, ErrorKind::budget, world_->name, " has no room left for launches");
        return there;
    }

    // Scratch that grows to the largest call.
    std::byte* room(Buffer& buffer, std::size_t bytes) {
        if (buffer.size() >= bytes && buffer.data()) return buffer.data();
        world_->enter();
        finish();  // what is under way has the one before
        buffer = {};
        const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), kPageBytes);
        buffer = world_->allocate_work(size);
        if (!buffer.data()) {  // recordings can be made again
            graphs_.clear();
            seen_ = world_->work.changes();
            buffer = world_->allocate_work(size);
        }
        require(buffer.data(), ErrorKind::budget, world_->name, " has no ", bytes_text(bytes),
                " for launches: ", bytes_text(world_->work.largest_gap()), " of ", bytes_text(world_->work.size()),
                " are left for them. Give more device_memory, or a smaller prefill_chunk");
        return buffer.data();
    }

    on_gpu::LinearInputs prepare(const kernels::Activations& x) {
        on_gpu::LinearInputs inputs{x.x, {}, x.cols};
        if (!x.has_codes) return inputs;
        Carver carver(room(codes_, Carver::codes_bytes(x.rows, x.groups) + 3 * Arena::kAlignment));
        inputs.codes = carver.codes(x.rows, x.groups);
        launched(on_gpu::quantise(x.x, x.rows, x.cols, inputs.codes, fault(), entered()), "quantise");
        return inputs;
    }

    const std::shared_ptr<World> world_;
    const std::shared_ptr<OwnStream> own_;  // memory that was allocated keeps it
    const cudaStream_t stream_;
    Courier courier_;
    Experts experts_;
    Buffer fault_, fault_seen_;
    Buffer codes_, states_;
    std::vector<on_gpu::LinearItem> items_;

    std::map<std::pair<const void*, std::int64_t>, Recorded> graphs_;  // by what, and rows
    Recorded* recording_ = nullptr;
    bool never_ = false;       // something could not be recorded
    bool all_reached_ = true;  // host memory that was allocated here
    std::uint64_t seen_ = 0;   // changes of the memory that recordings use
    mutable cudaError_t failed_ = cudaSuccess;
};

}  // namespace

std::shared_ptr<kernels::Accelerator> make_accelerator(std::shared_ptr<World> world) {
    return std::make_shared<CudaAccelerator>(std::move(world));
}

}  // namespace moestro::device::cuda
