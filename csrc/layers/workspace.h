// What a decoder computes a step in: arrays and kernel scratch, allocated once for the largest step, and where the rows
// of the step under way stand. Layers take their input from it and leave their output there.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/trace.h"
#include "engine/runtime.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "memory/block_tables.h"

namespace moestro::layers {

// Sizes of a model that its work arrays depend on.
struct WorkShape {
    int hidden = 0;
    int heads = 0, kv_heads = 0, head_dim = 0;  // head_dim: of queries and keys, even
    int experts = 0, top_k = 0;                 // the most of any layer; 0 in a dense model
    // What only some models need is 0 in the others:
    int value_dim = 0;  // of values; 0: head_dim
    std::vector<int> rotary_halves =
        {};                      // of every rotary embedding, half of the dimensions it turns; none: head_dim / 2
    int wide = 0, narrow = 0;    // columns of linears between others: attention gates, queries of latents
    int by_head = 0;             // columns of what goes through one matrix per head
    bool shared = false;         // some layer has a shared expert
    bool weighed = false;        // some layer multiplies what its experts read by the router's weights
    bool pre_gated = false;      // some layer's router reads what the router of the layer before read
    bool query_factors = false;  // queries grow with their positions

    int values() const { return value_dim ? value_dim : head_dim; }
};

// Of one rotary embedding: [rows, half] each.
struct RotaryTable {
    int half = 0;
    float *cos = nullptr, *sin = nullptr;
};

// Arrays of [rows, width] for the rows of a step, dense. Pointers stay the same as long as the workspace.
struct WorkArrays {
    float* x = nullptr;              // [rows, hidden]: the residual stream
    float* normed = nullptr;         // [rows, hidden]: what a branch reads
    float* branch = nullptr;         // [rows, hidden]: what a branch adds
    float* q = nullptr;              // [rows, heads * head_dim]
    float* k = nullptr;              // [rows, kv_heads * head_dim]
    float* v = nullptr;              // [rows, kv_heads * value_dim]
    float* attended = nullptr;       // [rows, heads * value_dim]
    float* wide = nullptr;           // [rows, wide]
    float* narrow = nullptr;         // [rows, narrow]
    float* by_head = nullptr;        // [rows, by_head]
    float* shared = nullptr;         // [rows, hidden]: what a shared expert adds
    float* shared_logits = nullptr;  // [rows]
    float* weighed = nullptr;        // [rows, hidden]
    float* query_factors = nullptr;  // [rows]
    float* logits = nullptr;         // [rows, experts]: of a router
    float* handed = nullptr;         // the same, of a pre-gated layer, from the layer before it
    float* weights = nullptr;        // [rows, top_k]
    std::int32_t* ids = nullptr;     // [rows, top_k]
};

// What the processor reads and writes of a step. Without an accelerator x, logits, weights and ids are the arrays
// above; with one they are copies, which put_x() and fetch() move.
struct HostArrays {
    float* x = nullptr;                 // [rows, hidden]: the residual stream at the beginning of a step
    float* read = nullptr;              // [rows, hidden]: what experts read; only with an accelerator
    float* logits = nullptr;            // [rows, experts]
    float* weights = nullptr;           // [rows, top_k]
    std::int32_t* ids = nullptr;        // [rows, top_k]
    std::int32_t* next_ids = nullptr;   // [rows, top_k]: of a later layer's router
    std::int32_t* every_row = nullptr;  // [rows]: 0, 1, 2, ...
};

// Where an accelerator finds a step's rows.
struct PlacesThere {
    const std::int64_t* positions = nullptr;   // [rows]
    const std::int64_t* begins = nullptr;      // [rows], into tables
    std::byte* const* blocks = nullptr;        // [rows]: start of the block that takes a row's key and value
    const std::byte* const* tables = nullptr;  // starts of blocks
};

// Where a step's rows stand. Borrowed by begin() only.
struct StepPlaces {
    memory::BlockTables batch;
    std::span<const memory::BlockId> blocks;  // [rows]: the block that takes a row's key and value
    // Of every rotary embedding: [half], or [rows, half] when per_row; cos and sin are multiplied by the factor.
    struct Rotary {
        const float* inv_freq = nullptr;
        bool per_row = false;
        float attention_factor = 1.0f;
    };
    std::span<const Rotary> rotary;
    const float* query_factors = nullptr;  // [rows], where the workspace has room for them
};

// One thread at a time.
class Workspace {
  public:
    // For steps of up to `max_rows` rows, computed on the processor or on an accelerator. Throws Error(usage) for sizes
    // that are not above 0 (experts may be 0).
    Workspace(const WorkShape& shape, int max_rows, std::shared_ptr<kernels::Accelerator> accelerator = nullptr);
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    // A step begins: contents of the last one are gone. Throws Error(usage) for more rows than there is room for, and
    // places that make no sense.
    void begin(const StepPlaces& places);
    int rows() const { return static_cast<int>(positions_.size()); }
    memory::BlockTables batch() const { return {positions_, tables_, begins_}; }
    std::span<const memory::BlockId> blocks() const { return blocks_; }
    bool any_hole() const { return any_hole_; }  // some table has kNoBlock

    const WorkShape& shape() const { return shape_; }
    int max_rows() const { return max_rows_; }
    const WorkArrays& arrays() const { return arrays_; }
    const HostArrays& host() const { return host_; }
    // The step's rows are in host().x: brings them to arrays().x.
    void put_x();
    // What the processor wants to know of what an accelerator computed: after settle() the router's choice is in
    // host(), ids, weights and logits [rows, experts], and the rows that experts read too. Nothing without an
    // accelerator.
    void get_routed(const float* read, const float* logits, int experts, int top_k);
    void settle();
    // A router's logits [rows, experts], for the processor.
    float* fetch_logits(float* logits, int experts);
    // Takes the accelerator's memory for so many logits and entries of block tables now, before others have it.
    void reserve(std::int64_t logits, std::int64_t blocks);
    // Room for so many logits of the head, in the accelerator's memory.
    float* logits_there(std::int64_t count);
    // The step's blocks, brought to the accelerator once per step.
    const PlacesThere& places_there(kernels::Accelerator& there, const memory::KvPool& kv);
    const RotaryTable& rotary(int table) const { return rotary_[static_cast<std::size_t>(table)]; }
    int rotary_tables() const { return static_cast<int>(rotary_.size()); }

    // Of the arrays, on the processor. What `scratch` and the places grow to is the sum of their parts.
    static std::size_t bytes(const WorkShape& shape, std::int64_t max_rows);
    // With an accelerator: of its memory, tables of `blocks` blocks included, and of the host's.
    static std::size_t bytes_there(const WorkShape& shape, std::int64_t max_rows, std::int64_t blocks);
    static std::size_t bytes_beside(const WorkShape& shape, std::int64_t max_rows);

    // Grow to the largest call and stay.
    struct Scratch {
        kernels::Activations activations;
        kernels::AttentionScratch attention;
        kernels::RouterScratch router;
        kernels::MlpScratch mlp;
        std::vector<std::byte*> tables, blocks;  // of one layer
        std::vector<kernels::LinearJob> head;
    } scratch;
    std::shared_ptr<TraceRing> trace;  // where calls are recorded; may be null
    engine::Ticket experts;            // submitted by the layer under way, not waited for yet
    int routed = 0;         // experts per row in arrays().ids, of the layer that routed last; 0 when none did
    int handed_layer = -1;  // whose logits are in arrays().handed; -1: nobody's

    // A call that computes here, and as what it is recorded. Throws Error(usage) while another thread's is going on.
    class Use {
      public:
        explicit Use(Workspace& work, std::optional<Activity> activity = std::nullopt, int layer = -1);
        ~Use();
        Use(const Use&) = delete;
        Use& operator=(const Use&) = delete;

      private:
        Workspace& work_;
        const std::optional<Activity> activity_;
        const int layer_;
        Nanos begin_;
    };
    Nanos busy_ns() const { return busy_ns_.load(std::memory_order_relaxed); }  // within calls, since construction

  private:
    void turn(const StepPlaces::Rotary& rotary, const RotaryTable& table);

    const WorkShape shape_;
    const int max_rows_;
    const std::shared_ptr<kernels::Accelerator> accelerator_;  // null: the processor
    std::shared_ptr<std::byte> memory_, host_memory_;
    WorkArrays arrays_;
    HostArrays host_;
    std::vector<RotaryTable> rotary_;

    std::vector<std::int64_t> positions_, begins_;  // [rows]
    std::vector<memory::BlockId> tables_, blocks_;
    bool any_hole_ = false;
    PlacesThere there_;  // of the step under way, once somebody asked
    struct Grown {       // memory of the accelerator that grows to the largest step
        std::shared_ptr<std::byte> memory;
        std::size_t size = 0;
    };
    std::byte* grow(Grown& grown, std::size_t bytes) const;
    Grown places_memory_, logits_memory_;
    std::vector<float> turned_;      // on their way to the accelerator: cos and sin,
    std::vector<std::byte> packed_;  // and places

    std::atomic<bool> used_ = false;
    std::atomic<Nanos> busy_ns_ = 0;
};

}  // namespace moestro::layers
