#include "base/types.h"
#include "kernels/cuda/launching.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 128;

__global__ void combine_rows(const float* const* outputs, const float* weights, int top_k, int hidden, float* y) {
    const std::int64_t row = blockIdx.y;
    const int column = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
    if (column >= hidden) return;
    float sum = 0.0f;
    for (std::int64_t pair = row * top_k; pair < (row + 1) * top_k; ++pair)
        if (const float* output = outputs[pair]) sum = fma(weights[pair], output[column], sum);
    y[row * hidden + column] = sum;
}

}  // namespace

Status combine(const float* const* outputs, const float* weights, int rows, int top_k, int hidden, float* y,
               Stream stream) {
    constexpr int kMostRows = 65535;  // of a grid's second dimension
    for (int first = 0; first < rows; first += kMostRows) {
        const int some = rows - first < kMostRows ? rows - first : kMostRows;
        const std::int64_t pair = std::int64_t{first} * top_k;
        const Status status =
            launch(combine_rows, dim3(static_cast<unsigned>(ceil_div(hidden, kThreads)), some), dim3(kThreads), 0,
                   stream, outputs + pair, weights + pair, top_k, hidden, y + std::int64_t{first} * hidden);
        if (status != cudaSuccess) return status;
    }
    return cudaSuccess;
}

}  // namespace moestro::kernels::cuda
