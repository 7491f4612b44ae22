#include "base/types.h"
#include "kernels/cuda/few_rows.cuh"
#include "kernels/cuda/launching.cuh"
#include "kernels/cuda/linear.cuh"

namespace moestro::kernels::cuda {

namespace {

// `width`: outputs of a tile, 64 or 32.
__global__ void __launch_bounds__(kFewThreads, 2)
    few_rows(Input input, const Job* jobs, const std::int32_t* begins, int count, int width, int most_rows) {
    __shared__ FewRows rows;
    __shared__ int number;
    find_run(begins, count, static_cast<int>(blockIdx.x), number);
    const auto first_output = [&] { return (static_cast<int>(blockIdx.x) - begins[number]) * width; };
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < 2) {
        rows.halves[thread] = half_of(jobs[number].weight, first_output() / kHalf + thread);
        if (thread * kHalf >= width) rows.halves[thread].lanes = 0;
    }
    if (thread == 2) {
        rows.input = input;
        rows.count = jobs[number].count;
        rows.mark = nullptr;
    }
    if (thread < jobs[number].count) rows.ids[thread] = jobs[number].row(thread);
    __syncthreads();
    const float* const totals = multiply(rows, most_rows);
    const Job& job = jobs[number];
    for (int value = thread; value < rows.count * kTile; value += kFewThreads) {
        const int row = value / kTile, lane = value % kTile, n = first_output() + lane;
        if (lane >= width || n >= job.weight.rows) continue;
        job.y[row * job.ldy + n] = job.weight.bias ? add(totals[value], job.weight.bias[n]) : totals[value];
    }
}

// Tiles of 32 outputs where there would not be enough of 64 to keep a GPU busy.
constexpr int kEnoughTiles = 512;

Status launch_few(const Input& input, const Jobs& jobs, Courier& courier, Stream stream) {
    const auto tiles = [&](int width) {
        std::int64_t sum = 0;
        for (const Job& job : jobs) sum += ceil_div(job.weight.rows, width);
        return sum;
    };
    const int width = tiles(kTile) < kEnoughTiles ? kHalf : kTile;
    int most_rows = 1;
    for (const Job& job : jobs) most_rows = job.count > most_rows ? job.count : most_rows;
    const Runs runs(jobs, [&](const Job& job) { return ceil_div(job.weight.rows, width); });
    return runs.launch(few_rows, kFewThreads, few_rows_bytes(most_rows), courier, stream, input, width, most_rows);
}

}  // namespace

Status launch_jobs(const Input& input, const Jobs& jobs, Courier& courier, Stream stream) {
    Jobs few, many[4];
    for (const Job& job : jobs) {
        if (job.count == 0 || job.weight.rows == 0) continue;
        (job.count <= kFewRows ? few : many[static_cast<int>(job.weight.format)]).push_back(job);
    }
    Status status = few.empty() ? cudaSuccess : launch_few(input, few, courier, stream);
    for (int format = 0; format < 4 && status == cudaSuccess; ++format)
        if (!many[format].empty())
            status = launch_many(static_cast<Format>(format), input, many[format], courier, stream);
    return status;
}

Status linear(const LinearInputs& inputs, const LinearItem* items, int count, Courier& courier, Stream stream) {
    Jobs jobs;
    for (const LinearItem* item = items; item != items + count; ++item)
        jobs.push_back({panels_of(item->weight), item->rows, item->first, 1, item->count, item->y, item->ldy});
    return launch_jobs(input_of(inputs), jobs, courier, stream);
}

Status linear_by_head(const LinearInputs& inputs, int rows, const HeadMatrices& weights, float* y, std::int64_t ldy,
                      Courier& courier, Stream stream) {
    const quant::MatrixSpec& all = weights.stacked.spec;
    const quant::MatrixSpec one{weights.rows, all.cols, all.format, all.scale};
    const std::size_t head_bytes = static_cast<std::size_t>(weights.stride / all.panel_rows()) * all.panel_bytes();
    Jobs jobs;
    for (int head = 0; head < weights.heads; ++head) {
        const Matrix matrix{weights.stacked.data + static_cast<std::size_t>(head) * head_bytes, one};
        jobs.push_back({panels_of(matrix), nullptr, head, weights.heads, rows, y + head * ldy, ldy * weights.heads});
    }
    return launch_jobs(input_of(inputs), jobs, courier, stream);
}

}  // namespace moestro::kernels::cuda
