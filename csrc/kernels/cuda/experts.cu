// Gated MLPs. Experts of a few rows go through one launch that reads every record once: blocks take tiles from a queue,
// first those of all gates and ups, then those of all downs. Where many rows share an expert, one launch follows the
// other.
#include <vector>

#include "base/types.h"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/quantise.cuh"

namespace moestro::kernels::cuda {

namespace {

struct Expert {
    Panels gate, up, down;
    GateKind kind;
    std::int32_t first, count;
    float* y;
    std::int32_t ids[kFewRows];
};
struct Plan {
    Input input, hidden;  // hidden: of all pairs
    Codes codes;          // it as it is written, for q8 and q4,
    float* floats;        // and for bf16 and f32
    const Expert* experts;
    std::int32_t count;
    std::int32_t in_tiles, down_tiles;  // of every expert
    // Of every expert, its tiles of gate and up that are done and those of down that saw it; then the tiles taken.
    // Whoever completes a mark makes it 0.
    std::uint32_t* marks;
    std::uint32_t* fault;
};

__device__ __forceinline__ void count_up(const Plan& plan, int expert) {
    const auto all = static_cast<std::uint32_t>(plan.in_tiles + plan.down_tiles);
    if (atomicAdd(plan.marks + expert, 1u) + 1 == all) plan.marks[expert] = 0;
}

// 32 elements of a hidden row, by a warp: exactly one of its groups.
__device__ __forceinline__ void put_hidden(const Plan& plan, const Expert& expert, std::int64_t pair, int tile, float g,
                                           float u) {
    const int n = tile * 32 + static_cast<int>(threadIdx.x % 32);
    const bool exists = n < plan.hidden.cols;
    const float h = exists ? gate(expert.kind, g, u) : 0.0f;
    if (integer(expert.down.format))
        quantise_group(h, pair * plan.hidden.groups + tile, plan.codes, plan.fault);
    else if (exists)
        plan.floats[pair * plan.hidden.cols + n] = h;
}

__device__ __forceinline__ float with_bias(const Panels& matrix, int n, float total) {
    return matrix.bias && n < matrix.rows ? add(total, matrix.bias[n]) : total;
}

// What becomes of a tile of gate and up, [row][32 of gate, 32 of up], or of down.
__device__ __forceinline__ void finish_in(const Plan& plan, const Expert& expert, int tile, const float* totals) {
    const int row = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
    const int n = tile * kHalf + lane;
    if (row < expert.count) {
        const float g = with_bias(expert.gate, n, totals[row * kTile + lane]);
        const float u = with_bias(expert.up, n, totals[row * kTile + kHalf + lane]);
        put_hidden(plan, expert, expert.first + row, tile, g, u);
    }
    // Before the mark, and cumulative: of all threads that the barrier put before it.
    __syncthreads();
    if (threadIdx.x == 0) __threadfence();
}
__device__ __forceinline__ void finish_down(const Expert& expert, int tile, const float* totals) {
    for (int value = static_cast<int>(threadIdx.x); value < expert.count * kTile; value += kFewThreads) {
        const int row = value / kTile, n = tile * kTile + value % kTile;
        if (n < expert.down.rows)
            expert.y[std::int64_t{row} * expert.down.rows + n] = with_bias(expert.down, n, totals[value]);
    }
}

// Which tile a block takes.
struct Turn {
    int expert, tile;
    bool down;
};
__device__ __forceinline__ Turn take_turn(const Plan& plan) {
    const int in_tiles = plan.count * plan.in_tiles, tiles = in_tiles + plan.count * plan.down_tiles;
    const int taken = static_cast<int>(atomicAdd(plan.marks + plan.count, 1u));
    if (taken + 1 == tiles) plan.marks[plan.count] = 0;
    if (taken < in_tiles) return {taken / plan.in_tiles, taken % plan.in_tiles, false};
    return {(taken - in_tiles) / plan.down_tiles, (taken - in_tiles) % plan.down_tiles, true};
}

__global__ void __launch_bounds__(kFewThreads, 2) few_rows_experts(Plan plan, int most_rows) {
    __shared__ FewRows rows;
    __shared__ Turn turn;
    const int thread = static_cast<int>(threadIdx.x);
    if (thread == 0) turn = take_turn(plan);
    __syncthreads();
    {
        const Expert& expert = plan.experts[turn.expert];
        if (thread < 2)
            rows.halves[thread] = turn.down    ? half_of(expert.down, turn.tile * 2 + thread)
                                  : thread < 1 ? half_of(expert.gate, turn.tile)
                                               : half_of(expert.up, turn.tile);
        if (thread == 2) {
            rows.input = turn.down ? plan.hidden : plan.input;
            rows.count = expert.count;
            // Tiles are taken in order, so those that are waited for are done or under way.
            rows.mark = turn.down ? plan.marks + turn.expert : nullptr;
            rows.wanted = static_cast<std::uint32_t>(plan.in_tiles);
        }
        if (thread < kFewRows) rows.ids[thread] = turn.down ? expert.first + thread : expert.ids[thread];
    }
    __syncthreads();
    const float* const totals = multiply(rows, most_rows);
    const Expert& expert = plan.experts[turn.expert];
    if (turn.down)
        finish_down(expert, turn.tile, totals);
    else
        finish_in(plan, expert, turn.tile, totals);
    if (thread == 0) count_up(plan, turn.expert);
}

// ---- many rows ------------------------------------------------------------------------------------------------------
constexpr int kHiddenWarps = 8;

// A warp for every group of the hidden rows of the experts of a launch.
__global__ void hidden_groups(Plan plan, const std::int32_t* begins, const float* gates, const float* ups) {
    __shared__ int number;
    find_run(begins, plan.count, static_cast<int>(blockIdx.x), number);
    const Expert& expert = plan.experts[number];
    const std::int64_t group =
        std::int64_t{static_cast<int>(blockIdx.x) - begins[number]} * kHiddenWarps + threadIdx.x / 32;
    if (group >= std::int64_t{expert.count} * plan.hidden.groups) return;
    const std::int64_t pair = expert.first + group / plan.hidden.groups;
    const int tile = static_cast<int>(group % plan.hidden.groups);
    const int n = tile * 32 + static_cast<int>(threadIdx.x % 32);
    const std::int64_t at = pair * plan.hidden.cols + n;
    const bool exists = n < plan.hidden.cols;
    put_hidden(plan, expert, pair, tile, exists ? gates[at] : 0.0f, exists ? ups[at] : 0.0f);
}

using Experts = std::vector<Expert>;

Expert expert_of(const ExpertItem& item, const std::int32_t* ids) {
    Expert expert{
        panels_of(item.gate), panels_of(item.up), panels_of(item.down), item.kind, item.first, item.count, item.y, {}};
    for (int i = 0; i < item.count && i < kFewRows; ++i) expert.ids[i] = ids[item.first + i];
    return expert;
}

// Of experts that lie on the device when it is launched.
Plan plan_of(const ExpertsLaunch& launch, const Experts& experts, Courier& courier, Stream stream) {
    Plan plan{};
    plan.input = input_of(launch.inputs);
    plan.hidden = input_of({launch.gate, launch.hidden, launch.intermediate});
    plan.codes = launch.hidden;
    plan.floats = launch.gate;
    plan.experts = static_cast<const Expert*>(courier.send(experts.data(), experts.size() * sizeof(Expert), stream));
    plan.count = static_cast<std::int32_t>(experts.size());
    plan.in_tiles = static_cast<std::int32_t>(ceil_div(launch.intermediate, kHalf));
    plan.down_tiles = static_cast<std::int32_t>(ceil_div(experts[0].down.rows, kTile));
    plan.marks = launch.marks;
    plan.fault = launch.fault;
    return plan;
}

Status launch_few(const ExpertsLaunch& experts_launch, const Experts& experts, Courier& courier, Stream stream) {
    const Plan plan = plan_of(experts_launch, experts, courier, stream);
    if (!plan.experts) return cudaErrorMemoryAllocation;
    int most_rows = 1;
    for (const Expert& expert : experts) most_rows = expert.count > most_rows ? expert.count : most_rows;
    const auto tiles = static_cast<unsigned>(plan.count * (plan.in_tiles + plan.down_tiles));
    return launch(few_rows_experts, dim3(tiles), dim3(kFewThreads), few_rows_bytes(most_rows), stream, plan, most_rows);
}

Status launch_hidden(const ExpertsLaunch& experts_launch, const Experts& experts, Courier& courier, Stream stream) {
    const Plan plan = plan_of(experts_launch, experts, courier, stream);
    std::vector<std::int32_t> begins{0};
    for (const Expert& expert : experts) {
        const std::int64_t groups = std::int64_t{expert.count} * plan.hidden.groups;
        begins.push_back(begins.back() + static_cast<std::int32_t>(ceil_div(groups, kHiddenWarps)));
    }
    const void* const sent = courier.send(begins.data(), begins.size() * sizeof(std::int32_t), stream);
    if (!plan.experts || !sent) return cudaErrorMemoryAllocation;
    return launch(hidden_groups, dim3(static_cast<unsigned>(begins.back())), dim3(kHiddenWarps * 32), 0, stream, plan,
                  static_cast<const std::int32_t*>(sent), experts_launch.gate, experts_launch.up);
}

Status launch_all(const ExpertsLaunch& experts_launch, const Experts& experts, Courier& courier, Stream stream) {
    const void* const ids = courier.send(experts_launch.row_ids,
                                         static_cast<std::size_t>(experts_launch.pairs) * sizeof(std::int32_t), stream);
    if (!ids) return cudaErrorMemoryAllocation;
    const std::int64_t width = experts_launch.intermediate;
    Jobs in, out;
    for (const Expert& expert : experts) {
        const std::int32_t* const rows = static_cast<const std::int32_t*>(ids) + expert.first;
        const std::int64_t at = expert.first * width;
        in.push_back({expert.gate, rows, 0, 1, expert.count, experts_launch.gate + at, width});
        in.push_back({expert.up, rows, 0, 1, expert.count, experts_launch.up + at, width});
        out.push_back({expert.down, nullptr, expert.first, 1, expert.count, expert.y, expert.down.rows});
    }
    Status status = launch_jobs(input_of(experts_launch.inputs), in, courier, stream);
    if (status == cudaSuccess) status = launch_hidden(experts_launch, experts, courier, stream);
    const Input hidden = input_of({experts_launch.gate, experts_launch.hidden, experts_launch.intermediate});
    return status == cudaSuccess ? launch_jobs(hidden, out, courier, stream) : status;
}

}  // namespace

Status experts(const ExpertsLaunch& experts_launch, Courier& courier, Stream stream) {
    Experts few, many;
    for (const ExpertItem* item = experts_launch.items; item != experts_launch.items + experts_launch.count; ++item)
        if (item->count > 0) (item->count <= kFewRows ? few : many).push_back(expert_of(*item, experts_launch.row_ids));
    Status status = few.empty() ? cudaSuccess : launch_few(experts_launch, few, courier, stream);
    if (status == cudaSuccess && !many.empty()) status = launch_all(experts_launch, many, courier, stream);
    return status;
}

}  // namespace moestro::kernels::cuda
