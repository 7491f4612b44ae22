// Runtime: the one class Python needs. It owns the budget, the files, the trunk's weights, the expert cache, the KV
// blocks and the compute threads, and runs the expert part of a step.
//
// Life: construct -> open_file / load_* (trunk) -> set_experts -> begin_step / submit_experts / wait / end_step ... ->
// destruction (waits for reads in flight). One step at a time; a second thread that enters gets Error(usage).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/types.h"
#include "io/reader.h"
#include "kernels/ops.h"
#include "memory/kv_pool.h"
#include "memory/ledger.h"
#include "quant/format.h"

namespace moestro::engine {

enum class Verify { first, always, never };

struct RuntimeOptions {
    int threads = 1;
    std::string isa;                       // "" = best
    std::size_t host_memory = 0;           // bytes, hard
    io::File::Cache cache = io::File::Cache::direct;
    std::string engine = "auto";           // reader engine
    int io_depth = 0;                      // 0 = reader's default
    Verify verify = Verify::first;
    std::string policy = "lru";
    std::optional<int> expert_slots;       // tests: exactly this many slots (>= 1 wave of 1; at least 2)
    std::string faults;                    // tests: plan of io::FaultyReader, "" = none
};

// Where one source matrix lies: row-major contiguous, possibly unaligned.
struct TensorSlice {
    int file = 0;
    std::uint64_t offset = 0;
    quant::SourceType type = quant::SourceType::bf16;
    std::int32_t rows = 0, cols = 0;
};

// One packed record on disk.
struct RecordExtent {
    int file = 0;
    std::uint64_t offset = 0;  // multiple of 4096
    std::size_t bytes = 0;     // multiple of 4096
    std::uint64_t checksum = 0;
};

// A part of a record: where its packed matrix starts.
struct Part {
    quant::MatrixSpec spec;
    std::size_t offset = 0;  // multiple of 64
};

// The experts of one MoE layer; gate, up, down in this order. Exactly one of `records` and `slices` is filled.
struct ExpertLayer {
    int layer = 0;
    Part gate, up, down;
    std::size_t record_bytes = 0;                   // slot size: multiple of 4096
    std::vector<RecordExtent> records;              // [num_experts]: a packed store
    std::vector<std::array<TensorSlice, 3>> slices; // [num_experts]: a checkpoint in place
};

// Trunk weights in memory.
using MatrixHandle = std::shared_ptr<const kernels::Matrix>;

struct Counters {  // since construction, monotonic
    std::uint64_t hits = 0, misses = 0, joined = 0, evictions = 0;  // per distinct (layer, expert) of a submit
    std::uint64_t expert_bytes_read = 0, trunk_bytes_read = 0, reads = 0;
    std::int64_t compute_ns = 0;   // expert kernels
    std::int64_t stall_ns = 0;     // waiting for reads with nothing to compute
    std::int64_t arrival_ns = 0;   // verifying checksums and interleaving arrivals
    std::int64_t read_busy_ns = 0; // time with at least one expert read in flight
    std::uint64_t steps = 0, rows = 0;
};

struct Residency { int slots = 0; int resident = 0; std::size_t slot_bytes = 0, expert_bytes_resident = 0, expert_bytes_total = 0; };

class Ticket;  // one submit_experts; dropping it without wait() abandons the work safely

class Runtime {
  public:
    explicit Runtime(const RuntimeOptions& options);
    ~Runtime();

    kernels::Compute& compute();
    memory::Ledger& ledger();

    // ---- loading ----------------------------------------------------------------------------------------------------
    int open_file(const std::string& path);  // the same path gives the same index
    // Reads, converts and keeps a matrix ("trunk" in the ledger). bias: [rows] or empty, copied.
    MatrixHandle load_matrix(const std::string& name, const TensorSlice& slice, quant::Format format, std::span<const float> bias);
    // Reads a packed record whole and verifies its checksum; `parts` become matrices that share its memory.
    std::vector<MatrixHandle> load_record(const std::string& name, const RecordExtent& extent, std::span<const Part> parts,
                                          std::span<const std::span<const float>> biases);
    // Builds the expert cache from all memory the ledger has left. Throws Error(budget) with the missing number when
    // fewer than two slots fit. Called once; a dense model never calls it.
    void set_experts(std::vector<ExpertLayer> layers);
    // Creates the KV pool: blocks of 64 positions for `layers` layers. Blocks are taken from and returned to the expert
    // cache's memory, down to two slots.
    memory::KvPool& set_kv(const kernels::KvLayout& layout, int layers);

    // ---- one step ---------------------------------------------------------------------------------------------------
    // rows of this step; tentative[r] marks speculative rows (empty = none).
    void begin_step(int rows, std::span<const std::uint8_t> tentative);
    // x [rows, hidden] must stay valid until wait(). Pins hits, starts reads of misses (as many as slots and depth
    // allow), returns without computing.
    std::unique_ptr<Ticket> submit_experts(int layer, const float* x, int rows, const std::int32_t* ids, const float* weights, int top_k);
    // Computes hits while misses load, arrivals as they come, combines in router order into y [rows, hidden].
    // Throws the first failure (named: which expert, file, offset, cause); the runtime stays usable.
    void wait(Ticket& ticket, float* y);
    // accepted[r] (empty = all): only now do policies and statistics learn, and only from accepted rows.
    void end_step(std::span<const std::uint8_t> accepted);
    void abort_step();  // drops an unfinished step; safe in any state

    // ---- looking ----------------------------------------------------------------------------------------------------
    Counters counters() const;
    Residency residency() const;
    io::ReaderInfo reader_info() const;
    std::vector<std::string> refused() const;  // every fast path not taken, with its reason
    std::string file_mode() const;             // "direct" | "buffered" | "mixed"
    void check_integrity() const;              // Error(internal) when the cache or ledger contradict themselves

  private:
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace moestro::engine
