// Attention over block tables. A block of threads folds one segment of 512 keys for a tile of queries that share a KV
// head: first all scores, a warp per block of keys and a chain per query and key; then maxima, sums and weights, a warp
// per query; then the values, a chain per query and output element. The states of segments are folded in order by a
// second kernel. Calls whose states need too much memory go in parts, by rows and then by segments.
#include <algorithm>

#include "kernels/cuda/kv_types.cuh"
#include "kernels/cuda/launching.cuh"
#include "kernels/cuda/reductions.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kBlocks = kKvSegment / kKvBlock;  // a warp scores one
constexpr int kMostQueries = kThreads / 32;     // a warp weighs the keys of one
constexpr int kTiledRows = 64;                  // from so many rows on some are taken to follow each other
constexpr std::int64_t kStateFloats = 1 << 22;
static_assert(kBlocks == kThreads / 32 && kKvBlock == 64);

// Positions as Reach has them, on the device.
__device__ std::int64_t first_seen(const Reach& reach, std::int64_t position) {
    std::int64_t first = reach.window > 0 && position >= reach.window ? position - reach.window + 1 : 0;
    if (reach.chunk > 0 && position / reach.chunk * reach.chunk > first) first = position / reach.chunk * reach.chunk;
    return first;
}

// Part of a call: rows [first_row, first_row + rows), of each the segments [first_segment, ...), counted from the first
// one that it sees.
struct Part {
    AttentionJob job;
    std::size_t offset;  // of the layer in a block
    KvPlaces places;
    int tile_rows, tile_heads;  // queries of a tile: so many heads of so many rows
    int first_row = 0, rows = 0;
    int first_segment = 0, segments = 0;
    float* states = nullptr;  // [segments][rows][heads][2 + value_dim]: m, l, o
    float* totals = nullptr;  // [rows][heads][2 + value_dim], from part to part of the same rows; null: one part is all

    __device__ float* state(float* all, int segment, int row, int head) const {
        const std::int64_t at = (std::int64_t{segment} * rows + row - first_row) * job.heads + head;
        return all + at * (job.layout.value_dim + 2);
    }
    // Of a position, the number of the first segment seen.
    __device__ std::int64_t origin(std::int64_t position) const { return first_seen(job.reach, position) / kKvSegment; }
};

// Floats that are read together.
template <int kCount>
struct alignas(kCount % 4 == 0 ? 16 : 4 * kCount) Floats {
    float at[kCount];
};
template <int kCount>
__device__ Floats<kCount> floats_at(const float* from) {
    return *reinterpret_cast<const Floats<kCount>*>(from);
}

// What a block of threads shares while it folds a segment for some queries.
template <int kQueries>
struct Tile {
    const std::byte* blocks[kBlocks];    // null where nobody sees any of it
    int begin[kQueries], end[kQueries];  // the keys that a query sees, of the segment
    int row[kQueries], head[kQueries];
    float rescale[kQueries][kBlocks];
};
struct DynamicParts {
    float* scores;   // [queries][512], then the weights
    float* queries;  // [key_dim][queries]
};

// The rows of a tile that are folded together: of one sequence, and seeing segments from the same one on.
__device__ int run_end(const Part& part, int row, int end) {
    const AttentionJob& job = part.job;
    const std::int64_t table = job.table_begin[row], origin = part.origin(job.positions[row]);
    int next = row + 1;
    while (next < end && job.table_begin[next] == table && part.origin(job.positions[next]) == origin) ++next;
    return next;
}

// Returns false where no query sees any of the segment.
template <int kQueries>
__device__ bool set_up(const Part& part, int segment, int row, int end, int head, int heads, Tile<kQueries>& tile) {
    const AttentionJob& job = part.job;
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t number = part.origin(job.positions[row]) + part.first_segment + segment;
    if (thread < kQueries) {
        const int of_row = thread / part.tile_heads, of_head = thread % part.tile_heads;
        const bool there = row + of_row < end && of_head < heads;
        tile.row[thread] = there ? row + of_row : row;
        tile.head[thread] = there ? head + of_head : head;
        const std::int64_t position = job.positions[tile.row[thread]], base = number * kKvSegment;
        const std::int64_t low = first_seen(job.reach, position) - base, high = position + 1 - base;
        const bool sees = there && high > 0;
        tile.begin[thread] = sees && low > 0 ? static_cast<int>(low) : 0;
        tile.end[thread] = !sees ? 0 : high < kKvSegment ? static_cast<int>(high) : kKvSegment;
    }
    __syncthreads();
    bool seen = false;
    if (thread < kBlocks) {
        for (int t = 0; t < kQueries; ++t)
            seen = seen || (tile.begin[t] < (thread + 1) * kKvBlock && tile.end[t] > thread * kKvBlock);
        const std::int64_t at = job.table_begin[row] + number * kBlocks + thread;
        tile.blocks[thread] = seen ? job.block_tables[at] + part.offset : nullptr;
    }
    return __syncthreads_or(seen);
}

// The tile's queries, one beside the other; zeros where there is none.
template <int kQueries>
__device__ void load_queries(const AttentionJob& job, const Tile<kQueries>& tile, float* to) {
    const int key_dim = job.layout.key_dim;
    for (int at = static_cast<int>(threadIdx.x); at < kQueries * key_dim; at += kThreads) {
        const int t = at / key_dim, i = at % key_dim;
        const std::int64_t query = std::int64_t{tile.row[t]} * job.heads + tile.head[t];
        to[i * kQueries + t] = tile.end[t] > 0 ? job.q[query * key_dim + i] : 0.0f;
    }
}

// Dots of a tile's queries with two keys.
template <int kQueries>
struct Dots {
    float first[kQueries] = {}, second[kQueries] = {};

    __device__ void step(const float* queries, float one, float other) {
        const Floats<kQueries> q = floats_at<kQueries>(queries);
#pragma unroll
        for (int t = 0; t < kQueries; ++t) {
            first[t] = fma(q.at[t], one, first[t]);
            second[t] = fma(q.at[t], other, second[t]);
        }
    }
};

// Neighbours in every row of [key_dim][64].
template <class Kv, int kQueries>
__device__ void dot_columns(const typename Kv::Element* keys, int key_dim, const float* queries, Dots<kQueries>& dots) {
#pragma unroll 8
    for (int i = 0; i < key_dim; ++i) {
        const Pair key = Kv::pair(keys + i * kKvBlock);
        dots.step(queries + i * kQueries, key.first, key.second);
    }
}

// Two rows of [64][key_dim], by runs of 16 bytes where they lie so.
template <class Kv, int kQueries>
__device__ void dot_rows(const typename Kv::Element* keys, int key_dim, const float* queries, Dots<kQueries>& dots) {
    using Element = typename Kv::Element;
    constexpr int run = 16 / sizeof(Element);
    struct alignas(16) Run {
        Element at[run];
    };
    const Element *first = keys, *second = keys + key_dim;
    int i = 0;
    if (key_dim % run == 0)
#pragma unroll 2
        for (; i < key_dim; i += run) {
            const Run one = *reinterpret_cast<const Run*>(first + i), other = *reinterpret_cast<const Run*>(second + i);
#pragma unroll
            for (int n = 0; n < run; ++n)
                dots.step(queries + (i + n) * kQueries, Kv::widen(one.at[n]), Kv::widen(other.at[n]));
        }
    for (; i < key_dim; ++i) dots.step(queries + i * kQueries, Kv::widen(first[i]), Kv::widen(second[i]));
}

template <class Kv, int kQueries, bool kLatent>
__device__ void score(const Part& part, const Tile<kQueries>& tile, int kv_head, const DynamicParts& shared) {
    const AttentionJob& job = part.job;
    const int block = static_cast<int>(threadIdx.x) / 32, pair = 2 * (static_cast<int>(threadIdx.x) % 32);
    if (!tile.blocks[block]) return;
    const int key_dim = job.layout.key_dim;
    const auto* keys =
        reinterpret_cast<const typename Kv::Element*>(tile.blocks[block]) + kv_head * part.places.key_step;
    Dots<kQueries> dots;
    if (kLatent)
        dot_rows<Kv>(keys + std::int64_t{pair} * key_dim, key_dim, shared.queries, dots);
    else
        dot_columns<Kv>(keys + pair, key_dim, shared.queries, dots);
    const int key = block * kKvBlock + pair;
#pragma unroll
    for (int t = 0; t < kQueries; ++t) {
        Floats<2> scores{{mul(job.scale, dots.first[t]), mul(job.scale, dots.second[t])}};
        for (int n = 0; n < 2; ++n) {
            if (job.softcap > 0) scores.at[n] = softcap(scores.at[n], job.softcap);
            const bool visible = tile.begin[t] <= key + n && key + n < tile.end[t];
            if (!visible) scores.at[n] = as_float(0xff800000u);  // whatever memory holds there
        }
        *reinterpret_cast<Floats<2>*>(shared.scores + t * kKvSegment + key) = scores;
    }
}

// A warp takes one query through the segment's blocks in order: scores become weights.
template <int kQueries>
__device__ void weigh(const Part& part, Tile<kQueries>& tile, int segment, float* all_scores) {
    const int t = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    if (t >= kQueries || tile.end[t] == 0) return;
    float m = as_float(0xff800000u), l = 0.0f;
    for (int block = 0; block < kBlocks; ++block) {
        if (tile.begin[t] >= (block + 1) * kKvBlock || tile.end[t] <= block * kKvBlock) {
            if (lane == 0) tile.rescale[t][block] = 1.0f;
            continue;
        }
        float* scores = all_scores + t * kKvSegment + block * kKvBlock + lane;
        const float low = scores[0], high = scores[32], raised = larger(m, largest_of_warp(larger(low, high)));
        const float rescale = exp(sub(m, raised)), e_low = exp(sub(low, raised)), e_high = exp(sub(high, raised));
        scores[0] = e_low;
        scores[32] = e_high;
        // Lane i of the sum takes keys i, i + 16, i + 32 and i + 48.
        const float next_low = __shfl_down_sync(kAllLanes, e_low, 16),
                    next_high = __shfl_down_sync(kAllLanes, e_high, 16);
        const float sum = sum_of_lanes(cuda::add(cuda::add(cuda::add(e_low, next_low), e_high), next_high));
        l = fma(l, rescale, sum);
        m = raised;
        if (lane == 0) tile.rescale[t][block] = rescale;
    }
    if (lane == 0) {
        float* state = part.state(part.states, segment, tile.row[t], tile.head[t]);
        state[0] = m;
        state[1] = l;
    }
}

// One output element of some queries, over one block's values after the other.
template <class Kv, int kRun>
struct ValueChain {
    float o[kRun] = {};
    int begin[kRun], end[kRun];  // visible keys of the segment

    __device__ void step(const float* weights, int j, float value) {
#pragma unroll
        for (int t = 0; t < kRun; ++t)
            if (begin[t] <= j && j < end[t]) o[t] = fma(weights[t * kKvSegment + j], value, o[t]);
    }

    // weights: [queries][512]. values: element i of the first key of block `block`.
    __device__ void block(const float* weights, const typename Kv::Element* values, int stride, int block) {
        const int first = block * kKvBlock, last = first + kKvBlock;
        int low = last, high = first, all_from = first, all_to = last;  // keys that any sees, and that all see
#pragma unroll
        for (int t = 0; t < kRun; ++t) {
            if (begin[t] < low) low = begin[t];
            if (begin[t] > all_from) all_from = begin[t];
            if (end[t] > high) high = end[t];
            if (end[t] < all_to) all_to = end[t];
        }
        if (low < first) low = first;
        if (high > last) high = last;
        int j = low;
        if (low == all_from && high == all_to && low % 4 == 0) {
#pragma unroll 4
            for (; j + 4 <= high; j += 4) {
                float value[4];
#pragma unroll
                for (int n = 0; n < 4; ++n) value[n] = Kv::widen(values[(j - first + n) * stride]);
#pragma unroll
                for (int t = 0; t < kRun; ++t) {
                    const Floats<4> e = floats_at<4>(weights + t * kKvSegment + j);
#pragma unroll
                    for (int n = 0; n < 4; ++n) o[t] = fma(e.at[n], value[n], o[t]);
                }
            }
        }
        for (; j < high; ++j) step(weights, j, Kv::widen(values[(j - first) * stride]));
    }
};

// kTeams shares of the block's threads have a share of the queries each, and a thread an output element.
template <class Kv, int kQueries, int kTeams>
__device__ void sum_values(const Part& part, const Tile<kQueries>& tile, int kv_head, int segment,
                           const float* weights) {
    constexpr int run = kQueries < kTeams ? 1 : kQueries / kTeams, width = kThreads / kTeams;
    const int from = static_cast<int>(threadIdx.x) / width * run, value_dim = part.job.layout.value_dim;
    if (from >= kQueries) return;
    for (int i = static_cast<int>(threadIdx.x) % width; i < value_dim; i += width) {
        ValueChain<Kv, run> chain;
#pragma unroll
        for (int t = 0; t < run; ++t) {
            chain.begin[t] = tile.begin[from + t];
            chain.end[t] = tile.end[from + t];
        }
        for (int block = 0; block < kBlocks; ++block) {
            if (!tile.blocks[block]) continue;
#pragma unroll
            for (int t = 0; t < run; ++t)
                if (tile.end[from + t] > 0) chain.o[t] = mul(chain.o[t], tile.rescale[from + t][block]);
            const auto* values = reinterpret_cast<const typename Kv::Element*>(tile.blocks[block]) +
                                 part.places.values + kv_head * part.places.value_step;
            chain.block(weights + from * kKvSegment, values + i, part.places.value_stride, block);
        }
#pragma unroll
        for (int t = 0; t < run; ++t)
            if (tile.end[from + t] > 0)
                part.state(part.states, segment, tile.row[from + t], tile.head[from + t])[2 + i] = chain.o[t];
    }
}

// Blocks: x tiles of rows, y tiles of heads, z segments.
template <class Kv, int kQueries, bool kLatent>
__global__ void __launch_bounds__(kThreads, 2) fold_segment(Part part) {
    __shared__ Tile<kQueries> tile;
    const AttentionJob& job = part.job;
    const int group = job.heads / job.layout.kv_heads, tiles = (group + part.tile_heads - 1) / part.tile_heads;
    const int kv_head = static_cast<int>(blockIdx.y) / tiles,
              in_group = static_cast<int>(blockIdx.y) % tiles * part.tile_heads;
    const int heads = group - in_group < part.tile_heads ? group - in_group : part.tile_heads;
    const int segment = static_cast<int>(blockIdx.z), last_row = part.first_row + part.rows;
    auto* const scores = reinterpret_cast<float*>(shared_memory());
    const DynamicParts shared{scores, scores + kQueries * kKvSegment};
    int row = part.first_row + static_cast<int>(blockIdx.x) * part.tile_rows;
    const int end = row + part.tile_rows < last_row ? row + part.tile_rows : last_row;
    for (int next; row < end; row = next) {
        next = run_end(part, row, end);
        if (set_up(part, segment, row, next, kv_head * group + in_group, heads, tile)) {
            load_queries(job, tile, shared.queries);
            __syncthreads();
            score<Kv, kQueries, kLatent>(part, tile, kv_head, shared);
            __syncthreads();
            weigh(part, tile, segment, shared.scores);
            __syncthreads();
            if (job.layout.value_dim <= kThreads / 4)
                sum_values<Kv, kQueries, 4>(part, tile, kv_head, segment, shared.scores);
            else if (job.layout.value_dim <= kThreads / 2)
                sum_values<Kv, kQueries, 2>(part, tile, kv_head, segment, shared.scores);
            else
                sum_values<Kv, kQueries, 1>(part, tile, kv_head, segment, shared.scores);
        }
        __syncthreads();
    }
}

// Blocks: x rows, y heads; a thread has an output element. The first state is the total where there is no sink.
__global__ void __launch_bounds__(1024) merge_segments(Part part) {
    const AttentionJob& job = part.job;
    const int row = part.first_row + static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y),
              i = static_cast<int>(threadIdx.x), value_dim = job.layout.value_dim;
    const std::int64_t position = job.positions[row];
    const auto count = static_cast<int>(position / kKvSegment - part.origin(position)) + 1;
    const int left = count - part.first_segment, segments = left < part.segments ? left : part.segments;
    if (segments <= 0) return;
    const bool begun = part.first_segment > 0;
    float* total = part.totals ? part.state(part.totals, 0, row, head) : nullptr;
    float m = 0.0f, l = 1.0f, o = 0.0f;
    int segment = 0;
    if (begun || !job.sinks) {
        const float* state = begun ? total : part.state(part.states, segment++, row, head);
        m = state[0];
        l = state[1];
        if (i < value_dim) o = state[2 + i];
    } else {
        m = job.sinks[head];
    }
#pragma unroll 4
    for (; segment < segments; ++segment) {
        const float* state = part.state(part.states, segment, row, head);
        const float raised = larger(m, state[0]), keep = exp(sub(m, raised)), take = exp(sub(state[0], raised));
        m = raised;
        l = fma(l, keep, mul(state[1], take));
        if (i < value_dim) o = fma(o, keep, mul(state[2 + i], take));
    }
    if (left <= part.segments) {
        if (i < value_dim) job.y[(std::int64_t{row} * job.heads + head) * value_dim + i] = div(o, l);
        return;
    }
    __syncthreads();  // everybody has read the total
    if (i == 0) {
        total[0] = m;
        total[1] = l;
    }
    if (i < value_dim) total[2 + i] = o;
}

unsigned blocks(int n, int each) {
    return static_cast<unsigned>((n + each - 1) / each);
}

template <class Kv, int kQueries, bool kLatent>
Status fold(const Part& part, Stream stream) {
    const KvLayout& layout = part.job.layout;
    const dim3 grid(blocks(part.rows, part.tile_rows),
                    static_cast<unsigned>(layout.kv_heads) * blocks(part.job.heads / layout.kv_heads, part.tile_heads),
                    static_cast<unsigned>(part.segments));
    const std::size_t shared = static_cast<std::size_t>(kQueries * (kKvSegment + layout.key_dim)) * sizeof(float);
    return launch(fold_segment<Kv, kQueries, kLatent>, grid, dim3(kThreads), shared, stream, part);
}

Status run(const Part& part, Stream stream) {
    const KvLayout& layout = part.job.layout;
    const int queries = part.tile_rows * part.tile_heads;
    const Status folded = for_kv_type(layout.type, [&]<class Kv>() {
        if (layout.latent) return fold<Kv, kMostQueries, true>(part, stream);
        if (queries == 1) return fold<Kv, 1, false>(part, stream);
        if (queries <= 4) return fold<Kv, 4, false>(part, stream);
        return fold<Kv, kMostQueries, false>(part, stream);
    });
    if (folded != 0) return folded;
    return launch(merge_segments, dim3(static_cast<unsigned>(part.rows), static_cast<unsigned>(part.job.heads)),
                  dim3(blocks(layout.value_dim, 32) * 32), 0, stream, part);
}

std::int64_t floats_per_row(const KvLayout& layout, int heads) {
    return std::int64_t{heads} * (layout.value_dim + 2);
}

}  // namespace

std::size_t attention_floats(const KvLayout& layout, int heads, int rows, std::int64_t most_segments) {
    const std::int64_t row = floats_per_row(layout, heads), all = row * rows * most_segments;
    const std::int64_t least = 2 * row;  // one row's states of a segment and total
    return static_cast<std::size_t>(all <= kStateFloats ? all : least > kStateFloats ? least : kStateFloats);
}

Status attention(const AttentionLaunch& call, Stream stream) {
    const AttentionJob& job = call.job;
    if (job.rows == 0) return 0;
    const std::int64_t row = floats_per_row(job.layout, job.heads),
                       states = static_cast<std::int64_t>(call.state_floats) / row;
    const int heads = std::min(job.heads / job.layout.kv_heads, kMostQueries);
    Part part{job, call.offset, KvPlaces(job.layout), job.rows < kTiledRows ? 1 : kMostQueries / heads, heads};
    const bool whole = job.rows * call.most_segments <= states;
    if (!whole && states < 2) return cudaErrorInvalidValue;
    // Where not all states fit: as many rows as leave room for totals, and for one segment or more.
    const auto rows = static_cast<int>(whole ? job.rows : std::min<std::int64_t>(job.rows, states / 2));
    const auto segments = static_cast<int>(whole ? call.most_segments : states / rows - 1);
    part.states = call.states;
    if (!whole) part.totals = call.states + std::int64_t{segments} * rows * row;
    for (part.first_row = 0; part.first_row < job.rows; part.first_row += rows) {
        part.rows = std::min(rows, job.rows - part.first_row);
        for (std::int64_t first = 0; first < call.most_segments; first += segments) {
            part.first_segment = static_cast<int>(first);
            part.segments = static_cast<int>(std::min<std::int64_t>(segments, call.most_segments - first));
            if (const Status status = run(part, stream); status != 0) return status;
        }
    }
    return 0;
}

}  // namespace moestro::kernels::cuda
