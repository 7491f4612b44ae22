// Runtime: the one class Python needs. It owns the budget, the files, the trunk's weights, the expert cache, the KV
// blocks and the compute threads, and runs the expert part of a step.
//
// Life: construct -> open_file / load_* (trunk) -> set_experts -> begin_step / submit_experts / wait / end_step ... ->
// destruction (waits for reads in flight). One step at a time; a second thread that enters gets Error(usage).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/trace.h"
#include "base/types.h"
#include "engine/recorder.h"
#include "exec/prefetcher.h"
#include "io/reader.h"
#include "kernels/ops.h"
#include "memory/kv_pool.h"
#include "memory/ledger.h"
#include "quant/format.h"
#include "residency/layer_stream.h"
#include "residency/tiers.h"
#include "store/catalog.h"
#include "store/record_source.h"
#include "store/trunk_loader.h"

namespace moestro::exec {
class Submission;
}

namespace moestro::engine {

// The words of a model's files.
using residency::StreamOptions;
using store::ExpertLayer;
using store::MatrixHandle;
using store::Part;
using store::RecordExtent;
using store::TensorSlice;
using store::Verify;

// A machine with a device that needs none: what its lanes take, on a virtual clock.
struct EmulatedMachine {
    std::vector<policy::LaneCosts> costs;  // by layer with experts; or one, for all
    policy::Line layer = {};               // of a layer beside its experts, by rows
    policy::Line step = {};                // of a step beside its layers
    std::size_t memory = 0;                // bytes that the device has
    // What goes wrong, for tests: device::EmulatedOptions.
    int failed_allocation = 0, failed_copy = 0;
    bool no_pinning = false;
};

// A CUDA device, all of whose memory that is used is device_memory.
struct CudaMachine {
    int ordinal = 0;
    bool trunk = false;                        // not only experts: the whole model computes there
    std::size_t work = std::size_t{64} << 20;  // bytes of device_memory for what launches need themselves
};

struct RuntimeOptions {
    int threads = 1;
    std::string isa;  // "" = best
    kernels::Math math = kernels::Math::exact;
    std::size_t host_memory = 0;  // bytes, hard
    io::File::Cache cache = io::File::Cache::direct;
    std::string engine = "auto";    // reader engine
    int io_depth = 0;               // 0 = reader's default
    std::size_t io_read_bytes = 0;  // longer reads are split; 0 = reader's default
    Verify verify = Verify::first;
    std::string policy = "lru";
    std::vector<double> frequencies = {};      // of experts in a trace, for policy "static"; layer after layer
    std::string prefetch = "none";             // a predictor
    policy::PredictorSettings predictor = {};  // what it is made of, but for the experts
    // By position of a layer with experts and distance from 1: added to what its router makes of the input of the
    // router so many layers before; may be empty.
    std::vector<std::vector<std::vector<float>>> offsets = {};
    policy::LaneCosts costs = {};                  // of an expert, measured before; of nothing where nothing was
    int record_rows = 0;                           // room of take_record(); 0 records nothing
    int record_ahead = 0;                          // and of how many next layers' routers
    std::optional<int> expert_slots;               // tests: exactly this many slots, at least 2
    std::size_t trace_events = 0;                  // room for the latest events of trace(); 0 records none
    std::string faults;                            // tests: plan of io::FaultyReader, "" = none
    std::optional<EmulatedMachine> emulated = {};  // then time is virtual
    std::optional<CudaMachine> cuda = {};
    std::size_t device_memory = 0;  // bytes, hard; 0: experts stay off the device
    residency::Copies copies = residency::Copies::inclusive;
    // Who decides what the device computes: a planner; "device", which wants all experts there; "auto", which tries.
    std::string schedule = "hybrid";
};

// What a test replaces.
struct World {
    std::function<std::unique_ptr<io::Reader>(const io::ReaderOptions&)> make_reader = io::make_reader;
    std::shared_ptr<const Clock> clock = std::make_shared<SteadyClock>();
};

struct Counters {                                                   // since construction, monotonic
    std::uint64_t hits = 0, misses = 0, joined = 0, evictions = 0;  // per distinct (layer, expert) of a submit
    std::uint64_t expert_bytes_read = 0, trunk_bytes_read = 0, reads = 0;
    std::int64_t compute_ns = 0;    // expert kernels
    std::int64_t stall_ns = 0;      // waiting for reads with nothing to compute
    std::int64_t arrival_ns = 0;    // verifying checksums and interleaving arrivals
    std::int64_t read_busy_ns = 0;  // time with at least one expert read in flight
    std::uint64_t stream_bytes_read = 0;
    std::int64_t stream_stall_ns = 0;      // waiting for streamed units
    std::int64_t stream_arrival_ns = 0;    // verifying and interleaving them, beside the computation
    std::int64_t stream_read_busy_ns = 0;  // time with at least one of their reads in flight
    std::uint64_t on_device = 0;           // of hits, misses and joined: computed by the device
    std::uint64_t link_bytes = 0;          // copied to the device
    std::uint64_t device_evictions = 0;    // from its memory
    std::int64_t device_ns = 0;            // with something launched that is not over
    std::int64_t link_busy_ns = 0;         // with a copy to the device on its way
    std::int64_t clock_ns = 0;             // of the runtime's clock, which may be virtual
    std::int64_t compute_queued_ns = 0, read_queued_ns = 0, stream_queued_ns = 0;  // waiting for others before them
    std::uint64_t steps = 0, rows = 0;
};

struct Residency {
    int slots = 0;               // of the largest record, within the cache's present limit
    int resident = 0;            // records
    std::size_t slot_bytes = 0;  // of the largest record
    std::size_t expert_bytes_resident = 0, expert_bytes_total = 0;
    int units = 0, units_kept = 0;  // of the layer stream; those that stay
    int device_slots = 0, device_resident = 0;
    std::size_t device_bytes = 0;  // of the slots' limit
    std::size_t device_peak = 0;   // of what was ever allocated
};

// One submit_experts; dropping it without wait() abandons the work safely, on any thread, also after its runtime.
// Move-only; an empty one stands for no work.
class Ticket {
  public:
    Ticket() = default;
    ~Ticket();
    Ticket(Ticket&& other) noexcept = default;
    Ticket& operator=(Ticket&& other) noexcept;
    Ticket(const Ticket&) = delete;
    Ticket& operator=(const Ticket&) = delete;

    int rows() const { return rows_; }
    int hidden() const { return hidden_; }

  private:
    friend class Runtime;
    Ticket(std::shared_ptr<exec::Submission> submission, const void* owner, int rows, int hidden);

    std::shared_ptr<exec::Submission> submission_;
    const void* owner_ = nullptr;
    int rows_ = 0, hidden_ = 0;
};

class Runtime {
  public:
    explicit Runtime(const RuntimeOptions& options, const World& world = {});
    ~Runtime();

    // All may be kept longer than the runtime. compute: what layers compute with, which may be a device; processor: the
    // host's. Null where there is none: device_ledger, accelerator.
    const std::shared_ptr<kernels::Compute>& compute() const;
    const std::shared_ptr<kernels::Compute>& processor() const;
    const std::shared_ptr<memory::Ledger>& ledger() const;
    const std::shared_ptr<memory::Ledger>& device_ledger() const;
    const std::shared_ptr<kernels::Accelerator>& accelerator() const;  // compute()'s

    // ---- loading ----------------------------------------------------------------------------------------------------
    int open_file(const std::string& path);  // the same path gives the same index
    // Reads, converts and keeps a matrix ("trunk" in the ledger). bias: [rows] or empty, copied.
    MatrixHandle load_matrix(const std::string& name, const TensorSlice& slice, quant::Format format,
                             std::span<const float> bias);
    // Reads a packed record whole and verifies its checksum; `parts` become matrices that share its memory.
    std::vector<MatrixHandle> load_record(const std::string& name, const RecordExtent& extent,
                                          std::span<const Part> parts, std::span<const std::span<const float>> biases);
    // The same two for weights that may not stay: nothing is read yet, and the matrices point nowhere but between
    // hold_unit and release_unit. Units are numbered from 0 in the order of these calls, the order of their use.
    std::vector<MatrixHandle> stream_record(const std::string& name, const RecordExtent& extent,
                                            std::span<const Part> parts,
                                            std::span<const std::span<const float>> biases);
    struct StreamedMatrix {
        TensorSlice slice;
        quant::Format format = quant::Format::bf16;
        std::span<const float> bias;  // [rows] or empty, copied
    };
    std::vector<MatrixHandle> stream_matrices(const std::string& name, std::span<const StreamedMatrix> matrices);
    // Begins to read the units. Called once, after the last of them, before set_experts.
    void set_stream(const StreamOptions& options);
    // Builds the expert cache from all memory the ledger has left, as far as it is of use: what else is needed (trunk,
    // scratch) is taken before. Throws Error(budget) with the missing number when fewer than two slots fit. Called
    // once; a dense model never calls it.
    void set_experts(std::vector<ExpertLayer> layers);
    // Creates the KV pool: blocks of 64 positions for `layers` layers. Blocks are taken from and returned to the expert
    // cache's memory, down to two slots. Called once; the pool is the runtime's.
    memory::KvPool& set_kv(const kernels::KvLayout& layout, int layers);

    // Where the trunk computes on a device: takes what experts of steps of up to `rows` rows leave there, while there
    // is room. Else it does nothing.
    void reserve_rows(int rows, int top_k, int hidden);

    // ---- one step ---------------------------------------------------------------------------------------------------
    // rows of this step; tentative[r] marks speculative rows (empty = none). units: how many streamed units it will
    // use, from the first (none given: all).
    // tokens: the rows' ids, for predictors and records (empty: not known).
    void begin_step(int rows, std::span<const std::uint8_t> tentative, std::optional<int> units = std::nullopt,
                    std::span<const std::int32_t> tokens = {});
    // Waits until the unit is in memory; its matrices point there until it is released. One at a time, in order.
    void hold_unit(int unit);
    void release_unit(int unit);
    // x [rows, hidden] must stay valid until wait(); ids and weights [rows, top_k] are copied. Pins hits, starts reads
    // of misses (as many as slots and depth allow), returns without computing. Several submits of one layer take the
    // step's rows in turn.
    // logits [rows, experts], may be null: what the router thought, for policies that want to know.
    // x_there: the same rows in the memory of a device that computes the trunk, where wait() then leaves y; else null.
    Ticket submit_experts(int layer, const float* x, int rows, const std::int32_t* ids, const float* weights, int top_k,
                          const float* logits = nullptr, const float* x_there = nullptr);
    // Of how many next layers with experts somebody wants to know what their routers make of a layer's input.
    int lookahead() const;
    // After submit_experts of `layer`, for each of those in turn: logits [rows, experts] of the router of `target`,
    // which are changed where offsets are known. Then choose(), which must give ids [rows, top_k], is called.
    void foresee(int layer, int target, float* logits, int rows, int top_k,
                 const std::function<const std::int32_t*(const float* logits)>& choose);
    // After that: reads experts of later layers ahead, where that pays. May be left out.
    void advise(int layer);
    // Computes hits while misses load, arrivals as they come, combines in router order into y [rows, hidden].
    // Throws the first failure (named: which expert, file, offset, cause); the runtime stays usable.
    // Throws Error(usage) for a ticket that was waited for, is empty, or is of another runtime.
    void wait(Ticket& ticket, float* y);
    // accepted[r] (empty = all): only now do policies and statistics learn, and only from accepted rows. Rows that were
    // not tentative are accepted. Throws Error(usage), and the step stays open, when a ticket was not waited for.
    void end_step(std::span<const std::uint8_t> accepted);
    void abort_step();  // drops an unfinished step; safe in any state

    // Other budgets from now on; none given: as it is. What is over is given up: experts first, then units of the
    // trunk. Throws Error(budget), and nothing changed, where that does not suffice, or the device has not so much
    // memory. Not during a step.
    void resize(std::optional<std::size_t> host_memory, std::optional<std::size_t> device_memory);

    // ---- experts one by one, for callers that compute themselves
    // ------------------------------------------------------ Starts reads of those that are absent, as far as there is
    // room; returns how many were started.
    int prefetch(int layer, std::span<const std::int32_t> experts);
    // Waits until the expert is in memory and keeps it there until release() was called as often as acquire(): gate, up
    // and down, which point nowhere afterwards. Throws what its read failed with, Error(usage) when every slot is held.
    std::array<MatrixHandle, 3> acquire(int layer, int expert);
    void release(int layer, int expert);

    // What routers chose in the steps that ended since the last call, up to record_rows. Throws Error(usage) where
    // nothing is recorded.
    Recorded take_record();

    // What happened when; kept as long as somebody records.
    const std::shared_ptr<TraceRing>& trace() const;

    // ---- looking: any thread, any time ------------------------------------------------------------------------------
    Counters counters() const;                                      // as of the last call that ended
    Residency residency() const;                                    // the same
    std::vector<exec::PrefetchCounters> prefetch_counters() const;  // the same; by layer with experts
    io::ReaderInfo reader_info() const;
    std::vector<std::string> refused() const;  // every fast path not taken, with its reason
    bool virtual_time() const;                 // whose clock is an emulated machine's
    // Who decides what the device computes, and why; empty without a device.
    std::string schedule() const;
    std::string file_mode() const;  // "direct" | "buffered" | "mixed"; "none" while no file is open
    // Throws Error(usage) for a layer without experts. Not while the runtime is being built.
    int hidden(int layer) const;
    int experts(int layer) const;
    std::vector<std::size_t> record_sizes() const;  // bytes, by layer with experts

    void check_integrity() const;  // Error(internal) when the cache or ledger contradict themselves; a call like others

    // ---- sizes, for planning ----------------------------------------------------------------------------------------
    // What submit and wait hold for chunks of `rows`, and end_step's statistics for a step over `layers` MoE layers;
    // integer: q8 or q4 experts; math: the one that will be computed in; ahead: of how many
    // next layers somebody wants to know. The caller takes it from the ledger
    // ("scratch") before set_experts.
    static std::size_t scratch_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t hidden,
                                     std::int64_t intermediate, bool integer, std::int64_t layers, kernels::Math math,
                                     std::int64_t ahead = 0);
    static std::size_t staging_bytes();  // taken at construction
    // Of a record of so many rows; to be taken by the caller, too.
    static std::size_t record_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers, std::int64_t ahead);

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace moestro::engine
