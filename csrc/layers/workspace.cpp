#include "layers/workspace.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"

namespace moestro::layers {

namespace {

constexpr std::size_t kAlignment = 64;

std::vector<int> rotary_halves(const WorkShape& shape) {
    return shape.rotary_halves.empty() ? std::vector<int>{shape.head_dim / 2} : shape.rotary_halves;
}

// Calls take(array, bytes of a row) for every array, in the order they lie in memory.
template <class Take>
void for_arrays(const WorkShape& shape, WorkArrays& arrays, std::vector<RotaryTable>& rotary, const Take& take) {
    const auto floats = [&](float*& array, std::int64_t width) { take(array, width * std::int64_t{sizeof(float)}); };
    const std::int64_t hidden = shape.hidden, queries = std::int64_t{shape.heads} * shape.head_dim,
                       keys = std::int64_t{shape.kv_heads} * shape.head_dim;
    for (float** array : {&arrays.x, &arrays.normed, &arrays.branch}) floats(*array, hidden);
    floats(arrays.q, queries);
    floats(arrays.attended, std::int64_t{shape.heads} * shape.values());
    floats(arrays.k, keys);
    floats(arrays.v, std::int64_t{shape.kv_heads} * shape.values());
    floats(arrays.wide, shape.wide);
    floats(arrays.narrow, shape.narrow);
    floats(arrays.by_head, shape.by_head);
    floats(arrays.shared, shape.shared ? hidden : 0);
    floats(arrays.shared_logits, shape.shared ? 1 : 0);
    floats(arrays.weighed, shape.weighed ? hidden : 0);
    floats(arrays.query_factors, shape.query_factors ? 1 : 0);
    for (RotaryTable& table : rotary) {
        floats(table.cos, table.half);
        floats(table.sin, table.half);
    }
    floats(arrays.logits, shape.experts);
    floats(arrays.handed, shape.pre_gated ? shape.experts : 0);
    floats(arrays.weights, shape.top_k);
    take(arrays.ids, shape.top_k * std::int64_t{sizeof(std::int32_t)});
}

// The same for the host's arrays: those that only it has, and with an accelerator its copies too.
template <class Take>
void for_host_arrays(const WorkShape& shape, bool copies, HostArrays& arrays, const Take& take) {
    take(arrays.next_ids, shape.top_k * std::int64_t{sizeof(std::int32_t)});
    take(arrays.every_row, std::int64_t{sizeof(std::int32_t)});
    if (!copies) return;
    for (float** array : {&arrays.x, &arrays.read}) take(*array, shape.hidden * std::int64_t{sizeof(float)});
    take(arrays.logits, shape.experts * std::int64_t{sizeof(float)});
    take(arrays.weights, shape.top_k * std::int64_t{sizeof(float)});
    take(arrays.ids, shape.top_k * std::int64_t{sizeof(std::int32_t)});
}

std::vector<RotaryTable> tables_of(const WorkShape& shape) {
    std::vector<RotaryTable> tables;
    for (const int half : rotary_halves(shape)) tables.push_back({half});
    return tables;
}

Nanos now() {
    return SteadyClock().now();
}

}  // namespace

namespace {

void require_sizes(const WorkShape& shape, std::int64_t max_rows) {
    require(max_rows >= 0, ErrorKind::usage, "argument max_rows: expected at least one row; got ", max_rows);
    for (const int size : {shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.value_dim, shape.wide,
                           shape.narrow, shape.by_head, shape.experts, shape.top_k})
        require(size >= 0, ErrorKind::usage, "a workspace has sizes of at least 0; got ", size);
}

// Counts arrays, or places them one after the other.
class Arrays {
  public:
    explicit Arrays(std::int64_t rows, std::byte* at = nullptr) : rows_(rows), at_(at) {}
    template <class T>
    void operator()(T*& array, std::int64_t row_bytes) {
        if (at_) array = reinterpret_cast<T*>(at_ + bytes);
        bytes += round_up(static_cast<std::size_t>(row_bytes * rows_), kAlignment);
    }
    std::size_t bytes = 0;

  private:
    const std::int64_t rows_;
    std::byte* const at_;
};

std::size_t arrays_bytes(const WorkShape& shape, std::int64_t max_rows) {
    require_sizes(shape, max_rows);
    Arrays count(max_rows);
    WorkArrays none;
    std::vector<RotaryTable> tables = tables_of(shape);
    for_arrays(shape, none, tables, [&](auto*& array, std::int64_t row_bytes) { count(array, row_bytes); });
    return count.bytes;
}

std::size_t host_bytes(const WorkShape& shape, std::int64_t max_rows, bool copies) {
    Arrays count(max_rows);
    HostArrays none;
    for_host_arrays(shape, copies, none, [&](auto*& array, std::int64_t row_bytes) { count(array, row_bytes); });
    return count.bytes;
}

// What a step's places take on an accelerator.
std::size_t places_bytes(std::size_t rows, std::size_t blocks) {
    return rows * (2 * sizeof(std::int64_t) + sizeof(std::byte*)) + blocks * sizeof(std::byte*);
}

}  // namespace

std::size_t Workspace::bytes(const WorkShape& shape, std::int64_t max_rows) {
    return round_up(arrays_bytes(shape, max_rows) + host_bytes(shape, max_rows, false), kPageBytes);
}

std::size_t Workspace::bytes_there(const WorkShape& shape, std::int64_t max_rows, std::int64_t blocks) {
    return round_up(arrays_bytes(shape, max_rows), kPageBytes) +
           round_up(places_bytes(static_cast<std::size_t>(max_rows), static_cast<std::size_t>(blocks)), kPageBytes);
}

std::size_t Workspace::bytes_beside(const WorkShape& shape, std::int64_t max_rows) {
    require_sizes(shape, max_rows);
    return round_up(host_bytes(shape, max_rows, true), kPageBytes);
}

Workspace::Workspace(const WorkShape& shape, int max_rows, std::shared_ptr<kernels::Accelerator> accelerator)
    : shape_(shape), max_rows_(max_rows), accelerator_(std::move(accelerator)) {
    require(shape.hidden > 0 && shape.heads > 0 && shape.kv_heads > 0 && shape.head_dim > 0 && max_rows > 0,
            ErrorKind::usage, "a workspace needs at least one row, channel and head; got ", max_rows, " rows, hidden ",
            shape.hidden, ", ", shape.heads, " and ", shape.kv_heads, " heads of ", shape.head_dim);
    require(shape.head_dim % 2 == 0, ErrorKind::usage, "argument head_dim: expected an even number; got ",
            shape.head_dim);
    require(0 <= shape.top_k && shape.top_k <= shape.experts, ErrorKind::usage, "argument top_k: expected 0 to ",
            shape.experts, ", the number of experts; got ", shape.top_k);
    rotary_ = tables_of(shape);
    for (const RotaryTable& table : rotary_)
        require(table.half > 0 && 2 * table.half <= shape.head_dim, ErrorKind::usage,
                "argument rotary_halves: expected 1 to ", shape.head_dim / 2, "; got ", table.half);
    const std::size_t there = arrays_bytes(shape, max_rows),
                      beside = host_bytes(shape, max_rows, accelerator_ != nullptr);
    if (accelerator_) {
        memory_ = accelerator_->allocate(round_up(there, kPageBytes));
        host_memory_ = accelerator_->allocate_host(round_up(beside, kPageBytes));
    } else {
        const auto pages = std::make_shared<PageBuffer>(there + beside);
        memory_ = {pages, pages->data()};
        host_memory_ = {pages, pages->data() + there};
    }
    Arrays place(max_rows, memory_.get()), place_host(max_rows, host_memory_.get());
    for_arrays(shape, arrays_, rotary_, [&](auto*& array, std::int64_t row_bytes) { place(array, row_bytes); });
    for_host_arrays(shape, accelerator_ != nullptr, host_,
                    [&](auto*& array, std::int64_t row_bytes) { place_host(array, row_bytes); });
    if (!accelerator_) {
        host_.x = arrays_.x;
        host_.logits = arrays_.logits;
        host_.weights = arrays_.weights;
        host_.ids = arrays_.ids;
    }
    std::iota(host_.every_row, host_.every_row + max_rows, 0);
    const auto rows = static_cast<std::size_t>(max_rows);
    positions_.reserve(rows);
    begins_.reserve(rows);
    blocks_.reserve(rows);
    scratch.blocks.reserve(rows);
}

void Workspace::begin(const StepPlaces& places) {
    const Use use(*this);
    const std::size_t rows = places.batch.positions.size();
    require(rows >= 1 && rows <= static_cast<std::size_t>(max_rows_), ErrorKind::usage, "a step has 1 to ", max_rows_,
            " rows in this workspace; got ", rows);
    MOESTRO_CHECK(places.batch.begins.size() == rows && places.blocks.size() == rows);
    MOESTRO_CHECK(places.rotary.size() == rotary_.size() && (places.query_factors || !shape_.query_factors));
    memory::require_positions(places.batch.positions);
    memory::require_inside(places.batch);
    positions_.assign(places.batch.positions.begin(), places.batch.positions.end());
    begins_.assign(places.batch.begins.begin(), places.batch.begins.end());
    tables_.assign(places.batch.tables.begin(), places.batch.tables.end());
    blocks_.assign(places.blocks.begin(), places.blocks.end());
    any_hole_ = std::find(tables_.begin(), tables_.end(), memory::kNoBlock) != tables_.end();
    routed = 0;
    handed_layer = -1;
    experts = {};
    there_ = {};
    for (std::size_t i = 0; i < rotary_.size(); ++i) turn(places.rotary[i], rotary_[i]);
    if (!shape_.query_factors) return;
    if (accelerator_)
        accelerator_->put(arrays_.query_factors, places.query_factors, rows * sizeof(float));
    else
        std::copy_n(places.query_factors, rows, arrays_.query_factors);
}

void Workspace::turn(const StepPlaces::Rotary& rotary, const RotaryTable& table) {
    const std::size_t count = positions_.size() * static_cast<std::size_t>(table.half);
    float *cos = table.cos, *sin = table.sin;
    if (accelerator_) {
        turned_.resize(2 * count);
        cos = turned_.data();
        sin = cos + count;
    }
    kernels::rope_table(positions_.data(), rotary.inv_freq, rotary.per_row, rotary.attention_factor, rows(), table.half,
                        cos, sin);
    if (!accelerator_) return;
    accelerator_->put(table.cos, cos, count * sizeof(float));
    accelerator_->put(table.sin, sin, count * sizeof(float));
}

void Workspace::put_x() {
    if (!accelerator_) return;
    accelerator_->put(arrays_.x, host_.x,
                      static_cast<std::size_t>(rows()) * static_cast<std::size_t>(shape_.hidden) * sizeof(float));
}

void Workspace::get_routed(const float* read, const float* logits, int experts, int top_k) {
    if (!accelerator_) return;
    const auto bytes = [&](int width) {
        return static_cast<std::size_t>(rows()) * static_cast<std::size_t>(width) * 4;
    };
    accelerator_->get(host_.read, read, bytes(shape_.hidden));
    accelerator_->get(host_.ids, arrays_.ids, bytes(top_k));
    accelerator_->get(host_.weights, arrays_.weights, bytes(top_k));
    accelerator_->get(host_.logits, logits, bytes(experts));
}

void Workspace::settle() {
    if (accelerator_) accelerator_->settle();
}

float* Workspace::fetch_logits(float* logits, int experts) {
    if (!accelerator_) return logits;
    const auto count = static_cast<std::size_t>(rows()) * static_cast<std::size_t>(experts);
    accelerator_->get(host_.logits, logits, count * sizeof(float));
    accelerator_->settle();
    return host_.logits;
}

void Workspace::reserve(std::int64_t logits, std::int64_t blocks) {
    if (!accelerator_) return;
    logits_there(logits);
    grow(places_memory_, places_bytes(static_cast<std::size_t>(max_rows_), static_cast<std::size_t>(blocks)));
}

float* Workspace::logits_there(std::int64_t count) {
    return reinterpret_cast<float*>(grow(logits_memory_, static_cast<std::size_t>(count) * sizeof(float)));
}

std::byte* Workspace::grow(Grown& grown, std::size_t bytes) const {
    if (grown.size < bytes) {
        grown = {};  // before the larger one: never both
        grown.size = round_up(bytes, kPageBytes);
        grown.memory = accelerator_->allocate(grown.size);
    }
    return grown.memory.get();
}

const PlacesThere& Workspace::places_there(kernels::Accelerator& there, const memory::KvPool& kv) {
    if (there_.positions) return there_;
    const std::size_t rows = positions_.size(), bytes = places_bytes(rows, tables_.size());
    std::byte* const memory = grow(places_memory_, bytes);
    packed_.resize(bytes);
    std::byte* at = packed_.data();
    const auto take = [&](const auto& values) {
        const std::ptrdiff_t offset = at - packed_.data();
        std::memcpy(at, values.data(), values.size() * sizeof(values[0]));
        at += values.size() * sizeof(values[0]);
        return memory + offset;
    };
    memory::block_starts(kv, blocks_, scratch.blocks);
    memory::block_starts(kv, tables_, scratch.tables);
    // Tables last: so the places of the others depend on the rows alone, and calls can be repeated.
    there_ = {.positions = reinterpret_cast<const std::int64_t*>(take(positions_)),
              .begins = reinterpret_cast<const std::int64_t*>(take(begins_)),
              .blocks = reinterpret_cast<std::byte* const*>(take(scratch.blocks)),
              .tables = reinterpret_cast<const std::byte* const*>(take(scratch.tables))};
    there.put(memory, packed_.data(), bytes);
    return there_;
}

Workspace::Use::Use(Workspace& work, std::optional<Activity> activity, int layer)
    : work_(work), activity_(activity), layer_(layer), begin_(now()) {
    require(!work.used_.exchange(true, std::memory_order_acquire), ErrorKind::usage,
            "another thread is computing in this workspace: calls come one after the other");
}

Workspace::Use::~Use() {
    const Nanos end = now();
    work_.busy_ns_.fetch_add(end - begin_, std::memory_order_relaxed);
    if (work_.trace && activity_)
        work_.trace->add({.activity = *activity_,
                          .layer = layer_,
                          .count = work_.rows(),
                          .submitted = begin_,
                          .started = begin_,
                          .done = end});
    work_.used_.store(false, std::memory_order_release);
}

}  // namespace moestro::layers
