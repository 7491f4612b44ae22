#include "layers/workspace.h"

#include <algorithm>
#include <numeric>
#include <type_traits>

#include "base/error.h"
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
    take(arrays.next_ids, shape.top_k * std::int64_t{sizeof(std::int32_t)});
    take(arrays.every_row, std::int64_t{sizeof(std::int32_t)});
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

std::size_t Workspace::bytes(const WorkShape& shape, std::int64_t max_rows) {
    require(max_rows >= 0, ErrorKind::usage, "argument max_rows: expected at least one row; got ", max_rows);
    for (const int size : {shape.hidden, shape.heads, shape.kv_heads, shape.head_dim, shape.value_dim, shape.wide,
                           shape.narrow, shape.by_head, shape.experts, shape.top_k})
        require(size >= 0, ErrorKind::usage, "a workspace has sizes of at least 0; got ", size);
    std::size_t bytes = 0;
    WorkArrays none;
    std::vector<RotaryTable> tables = tables_of(shape);
    for_arrays(shape, none, tables, [&](auto*&, std::int64_t row_bytes) {
        bytes += round_up(static_cast<std::size_t>(row_bytes * max_rows), kAlignment);
    });
    return round_up(bytes, kPageBytes);
}

Workspace::Workspace(const WorkShape& shape, int max_rows) : shape_(shape), max_rows_(max_rows) {
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
    memory_ = PageBuffer(bytes(shape, max_rows));
    std::byte* at = memory_.data();
    for_arrays(shape, arrays_, rotary_, [&](auto*& array, std::int64_t row_bytes) {
        array = reinterpret_cast<std::remove_reference_t<decltype(array)>>(at);
        at += round_up(static_cast<std::size_t>(row_bytes * max_rows), kAlignment);
    });
    std::iota(arrays_.every_row, arrays_.every_row + max_rows, 0);
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
    for (std::size_t i = 0; i < rotary_.size(); ++i)
        kernels::rope_table(positions_.data(), places.rotary[i].inv_freq, places.rotary[i].per_row,
                            places.rotary[i].attention_factor, static_cast<int>(rows), rotary_[i].half, rotary_[i].cos,
                            rotary_[i].sin);
    if (shape_.query_factors) std::copy_n(places.query_factors, rows, arrays_.query_factors);
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
