#include "base/types.h"
#include "kernels/cuda/quantise.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kWarps = 8;

__global__ void quantise_rows(const float* x, std::int64_t total, int cols, int groups, Codes to,
                              std::uint32_t* fault) {
    const std::int64_t group = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    if (group >= total) return;
    const std::int64_t row = group / groups;
    const int column = static_cast<int>(group % groups) * 32 + static_cast<int>(threadIdx.x % 32);
    quantise_group(column < cols ? x[row * cols + column] : 0.0f, group, to, fault);
}

}  // namespace

Status quantise(const float* x, int rows, int cols, const Codes& to, std::uint32_t* fault, Stream stream) {
    const int groups = static_cast<int>(ceil_div(cols, 32));
    const std::int64_t total = std::int64_t{rows} * groups;
    if (total == 0) return cudaSuccess;
    return launch(quantise_rows, dim3(static_cast<unsigned>(ceil_div(total, kWarps))), dim3(kWarps * 32), 0, stream, x,
                  total, cols, groups, to, fault);
}

}  // namespace moestro::kernels::cuda
