// Norms. A striped sum is 16 chains that nothing can shorten: half a warp runs them over shared memory, which the whole
// block fills. Short rows share a block, half a warp each.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launching.cuh"
#include "kernels/cuda/reductions.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 256, kMostRows = kThreads / 16;
constexpr int kPiece = 4096;  // floats in shared memory

// Rows of a block: a power of two, more than one only where they fit together.
int rows_at_once(int n) {
    int rows = 1;
    while (rows < kMostRows && 2 * rows * n <= kPiece) rows *= 2;
    return rows;
}

// Sums striped over each of `rows` rows, those of row r for half a warp r. x: of the first of them.
template <class Step>
__device__ float striped_sum(const float* x, int rows, int n, float* piece, const Step& step) {
    const int thread = static_cast<int>(threadIdx.x), row = thread / 16, lane = thread % 16;
    float sum = 0.0f;
    for (int from = 0; from < n; from += kPiece) {  // in one go, or a single row
        const int width = n - from < kPiece ? n - from : kPiece;
        for (int i = thread; i < rows * width; i += kThreads) piece[i] = x[from + i];
        __syncthreads();
        if (row < rows) {
            const float* values = piece + row * width;
#pragma unroll 8
            for (int i = lane; i < width; i += 16) sum = step(values[i], sum);
        }
        __syncthreads();
    }
    return sum_of_lanes(sum);
}

// What a block normalises.
struct Rows {
    const float* x;
    float* y;
    int first, count;
    int row, lane, threads;  // of this thread where elements are written: its row, its place among the row's threads

    __device__ Rows(const float* from, float* to, int rows, int n, int at_once)
        : first(static_cast<int>(blockIdx.x) * at_once),
          count(rows - first < at_once ? rows - first : at_once),
          row(static_cast<int>(threadIdx.x) / (kThreads / at_once)),
          lane(static_cast<int>(threadIdx.x) % (kThreads / at_once)),
          threads(kThreads / at_once) {
        x = from + std::int64_t{first} * n;
        y = to + std::int64_t{first} * n;
    }
};

__device__ float inverse_deviation(float squares, int n, float eps, std::uint32_t* fault) {
    if (!is_finite(squares)) leave_fault(fault, Fault::norm);
    return div(1.0f, sqrt(cuda::add(div(squares, static_cast<float>(n)), eps)));
}

// x and y may be the same.
__global__ void __launch_bounds__(kThreads) rms_norm_rows(const float* x, const float* weight, float eps, int rows,
                                                          int n, int at_once, float* y, std::uint32_t* fault) {
    __shared__ float piece[kPiece], scales[kMostRows];
    const Rows mine(x, y, rows, n, at_once);
    const float squares = striped_sum(mine.x, mine.count, n, piece, [](float v, float sum) { return fma(v, v, sum); });
    const int half = static_cast<int>(threadIdx.x) / 16;
    if (threadIdx.x % 16 == 0 && half < mine.count) scales[half] = inverse_deviation(squares, n, eps, fault);
    __syncthreads();
    if (mine.row >= mine.count) return;
    const std::int64_t at = std::int64_t{mine.row} * n;
    const float r = scales[mine.row];
    for (int i = mine.lane; i < n; i += mine.threads) mine.y[at + i] = mul(mul(mine.x[at + i], r), weight[i]);
}

__global__ void __launch_bounds__(kThreads)
    layer_norm_rows(const float* x, const float* weight, const float* bias, float eps, int rows, int n, int at_once,
                    float* y, std::uint32_t* fault) {
    __shared__ float piece[kPiece], means[kMostRows], scales[kMostRows];
    const Rows mine(x, y, rows, n, at_once);
    const float sum = striped_sum(mine.x, mine.count, n, piece, [](float v, float sum) { return cuda::add(sum, v); });
    const float mean = div(sum, static_cast<float>(n));
    const float squares = striped_sum(mine.x, mine.count, n, piece, [mean](float v, float sum) {
        const float centred = sub(v, mean);
        return fma(centred, centred, sum);
    });
    const int half = static_cast<int>(threadIdx.x) / 16;
    if (threadIdx.x % 16 == 0 && half < mine.count) {
        means[half] = mean;
        scales[half] = inverse_deviation(squares, n, eps, fault);
    }
    __syncthreads();
    if (mine.row >= mine.count) return;
    const std::int64_t at = std::int64_t{mine.row} * n;
    const float centre = means[mine.row], r = scales[mine.row];
    for (int i = mine.lane; i < n; i += mine.threads) {
        const float scaled = mul(mul(sub(mine.x[at + i], centre), r), weight[i]);
        mine.y[at + i] = bias ? cuda::add(scaled, bias[i]) : scaled;
    }
}

dim3 blocks(int rows, int at_once) {
    return dim3(static_cast<unsigned>((rows + at_once - 1) / at_once));
}

}  // namespace

Status rms_norm(const float* x, const float* weight, float eps, int rows, int n, float* y, std::uint32_t* fault,
                Stream stream) {
    if (rows == 0) return 0;
    const int at_once = rows_at_once(n);
    return launch(rms_norm_rows, blocks(rows, at_once), dim3(kThreads), 0, stream, x, weight, eps, rows, n, at_once, y,
                  fault);
}

Status layer_norm(const float* x, const float* weight, const float* bias, float eps, int rows, int n, float* y,
                  std::uint32_t* fault, Stream stream) {
    if (rows == 0) return 0;
    const int at_once = rows_at_once(n);
    return launch(layer_norm_rows, blocks(rows, at_once), dim3(kThreads), 0, stream, x, weight, bias, eps, rows, n,
                  at_once, y, fault);
}

}  // namespace moestro::kernels::cuda
