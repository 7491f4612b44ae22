// Attention over block tables. An item is one query row and one KV head: its query heads share every key and value
// read. With few such items and long contexts (decode), segments become items of their own and fold afterwards.
#include <algorithm>
#include <limits>

#include "base/error.h"
#include "base/exact.h"
#include "base/types.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {

struct Shape {
    int group;           // query heads per KV head
    std::size_t floats;  // of one state
    std::size_t group_floats() const { return static_cast<std::size_t>(group) * floats; }
};

Shape shape_of(const KvLayout& layout, int heads) {
    MOESTRO_CHECK(layout.kv_heads > 0 && heads % layout.kv_heads == 0);
    return {heads / layout.kv_heads, static_cast<std::size_t>(state_floats(layout.head_dim))};
}

std::int64_t first_visible(const AttentionJob& job, std::int64_t position) {
    return job.window > 0 ? std::max<std::int64_t>(0, position - job.window + 1) : 0;
}

// One query row, one KV head.
struct Head {
    std::int64_t row;
    int kv_head;
};
Head head_at(const AttentionJob& job, std::int64_t item) {
    return {item / job.layout.kv_heads, static_cast<int>(item % job.layout.kv_heads)};
}

void run_segment(const Table& table, const AttentionJob& job, const Shape& shape, Head head, std::int64_t segment,
                 float* states) {
    const KvLayout& layout = job.layout;
    const std::int64_t position = job.positions[head.row];
    const std::size_t head_bytes = static_cast<std::size_t>(layout.head_dim) * kKvBlock * bytes(layout.type);
    SegmentCall call;
    call.blocks = job.block_tables + job.table_begin[head.row];
    call.first = std::max(first_visible(job, position), segment * kKvSegment);
    call.last = std::min(position, (segment + 1) * kKvSegment - 1);
    call.k_offset = static_cast<std::size_t>(head.kv_head) * head_bytes;
    call.v_offset = static_cast<std::size_t>(layout.kv_heads + head.kv_head) * head_bytes;
    call.q = job.q + (head.row * job.heads + head.kv_head * shape.group) * layout.head_dim;
    call.heads = shape.group;
    call.head_dim = layout.head_dim;
    call.scale = job.scale;
    call.states = states;
    table.attend[static_cast<std::size_t>(layout.type)](call);
}

// The totals before the first segment: a sink per head. Returns false where there is none and the first segment's
// states are the totals.
bool start_with_sinks(const AttentionJob& job, const Shape& shape, int kv_head, float* totals) {
    if (!job.sinks) return false;
    std::fill_n(totals, shape.group_floats(), 0.0f);
    for (int h = 0; h < shape.group; ++h) {
        float* state = totals + static_cast<std::size_t>(h) * shape.floats;
        state[0] = job.sinks[kv_head * shape.group + h];
        state[1] = 1.0f;
    }
    return true;
}

void merge_group(const Table& table, const Shape& shape, int head_dim, float* totals, const float* states) {
    for (std::size_t at = 0; at < shape.group_floats(); at += shape.floats)
        table.merge(totals + at, states + at, head_dim);
}

void finish_group(const Table& table, const AttentionJob& job, const Shape& shape, Head head, const float* totals) {
    float* y = job.y + (head.row * job.heads + head.kv_head * shape.group) * job.layout.head_dim;
    for (int h = 0; h < shape.group; ++h)
        table.finish(totals + static_cast<std::size_t>(h) * shape.floats, y + h * job.layout.head_dim,
                     job.layout.head_dim);
}

// Folds a head's segments in order; states(segment, spare) gives each segment's states, computing them into `spare`
// where need be.
template <class States>
void fold(const Table& table, const AttentionJob& job, const Shape& shape, Head head, float* totals,
          const States& states) {
    const std::int64_t position = job.positions[head.row];
    bool started = start_with_sinks(job, shape, head.kv_head, totals);
    for (std::int64_t s = first_visible(job, position) / kKvSegment; s <= position / kKvSegment; ++s) {
        const float* segment = states(s);
        if (started)
            merge_group(table, shape, job.layout.head_dim, totals, segment);
        else
            std::copy_n(segment, shape.group_floats(), totals);
        started = true;
    }
    finish_group(table, job, shape, head, totals);
}

void attend_whole(Compute& compute, const AttentionJob& job, const Shape& shape, AttentionScratch& scratch) {
    const std::size_t worker_floats = 2 * shape.group_floats();
    const std::size_t needed = static_cast<std::size_t>(compute.pool().threads()) * worker_floats;
    if (scratch.states.size() < needed) resize_exactly(scratch.states, needed);
    compute.pool().parallel_for(
        static_cast<std::int64_t>(job.rows) * job.layout.kv_heads, [&](std::int64_t item, int worker) {
            const Head head = head_at(job, item);
            float* totals = scratch.states.data() + static_cast<std::size_t>(worker) * worker_floats;
            float* segment = totals + shape.group_floats();
            fold(compute.table(), job, shape, head, totals, [&](std::int64_t s) {
                run_segment(compute.table(), job, shape, head, s, segment);
                return segment;
            });
        });
}

// Every (row, KV head) owns `span` + 1 groups of states: its segments from its first visible one on, then its totals.
void attend_by_segment(Compute& compute, const AttentionJob& job, const Shape& shape, std::int64_t span,
                       AttentionScratch& scratch) {
    const std::int64_t heads = static_cast<std::int64_t>(job.rows) * job.layout.kv_heads;
    const std::size_t head_floats = static_cast<std::size_t>(span + 1) * shape.group_floats();
    const std::size_t needed = static_cast<std::size_t>(heads) * head_floats;
    if (scratch.states.size() < needed) resize_exactly(scratch.states, needed);
    const auto states_of = [&](std::int64_t item, std::int64_t segment) {
        return scratch.states.data() + static_cast<std::size_t>(item) * head_floats +
               static_cast<std::size_t>(segment) * shape.group_floats();
    };
    compute.pool().parallel_for(heads * span, [&](std::int64_t item, int) {
        const Head head = head_at(job, item / span);
        const std::int64_t position = job.positions[head.row];
        const std::int64_t segment = first_visible(job, position) / kKvSegment + item % span;
        if (segment > position / kKvSegment) return;
        run_segment(compute.table(), job, shape, head, segment, states_of(item / span, item % span));
    });
    compute.pool().parallel_for(heads, [&](std::int64_t item, int) {
        const Head head = head_at(job, item);
        const std::int64_t first = first_visible(job, job.positions[head.row]) / kKvSegment;
        fold(compute.table(), job, shape, head, states_of(item, span),
             [&](std::int64_t s) { return states_of(item, s - first); });
    });
}

// Fewer items than this per thread leave threads idle at the end.
constexpr std::int64_t kItemsPerThread = 4;

bool splits(std::int64_t heads, std::int64_t span, int threads) {
    return threads > 1 && span > 1 && heads < kItemsPerThread * threads;
}

}  // namespace

std::size_t AttentionScratch::bytes(const KvLayout& layout, int heads, int rows, std::int64_t max_len, int threads) {
    const std::size_t group_bytes = shape_of(layout, heads).group_floats() * sizeof(float);
    const std::size_t whole = static_cast<std::size_t>(threads) * 2 * group_bytes;
    const std::int64_t span = ceil_div(max_len, kKvSegment);
    if (threads == 1 || span <= 1) return whole;
    const std::int64_t most_heads =
        std::min<std::int64_t>(static_cast<std::int64_t>(rows) * layout.kv_heads, kItemsPerThread * threads - 1);
    return std::max(whole, static_cast<std::size_t>(most_heads * (span + 1)) * group_bytes);
}

void attention(Compute& compute, const AttentionJob& job, AttentionScratch& scratch) {
    const Shape shape = shape_of(job.layout, job.heads);
    std::int64_t span = 0;
    for (int row = 0; row < job.rows; ++row) {
        MOESTRO_CHECK(job.positions[row] >= 0);
        const std::int64_t first = first_visible(job, job.positions[row]) / kKvSegment;
        span = std::max(span, job.positions[row] / kKvSegment - first + 1);
    }
    if (splits(static_cast<std::int64_t>(job.rows) * job.layout.kv_heads, span, compute.pool().threads()))
        attend_by_segment(compute, job, shape, span, scratch);
    else
        attend_whole(compute, job, shape, scratch);
}

void attention(Compute& compute, const AttentionJob& job) {
    AttentionScratch scratch;
    attention(compute, job, scratch);
}

}  // namespace moestro::kernels
