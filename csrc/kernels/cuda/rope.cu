// Rotations, in place.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launching.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 256;

// A block per row, whose heads turn by the same angles.
__global__ void __launch_bounds__(kThreads) rotate_row(RopeJob job, const float* cos, const float* sin) {
    const std::int64_t row = blockIdx.x;
    const int apart = job.pairs == RopePairs::halves ? job.half : 1, step = job.pairs == RopePairs::halves ? 1 : 2;
    for (int at = static_cast<int>(threadIdx.x); at < job.heads * job.half; at += kThreads) {
        const int head = at / job.half, i = at % job.half;
        float* one = job.x + (row * job.heads + head) * job.head_dim + job.first + i * step;
        const float a = *one, b = one[apart], c = cos[row * job.half + i], s = sin[row * job.half + i];
        *one = fma(a, c, -mul(b, s));
        one[apart] = fma(b, c, mul(a, s));
    }
}

}  // namespace

Status rope(const RopeJob& job, const float* cos, const float* sin, Stream stream) {
    if (job.rows == 0) return 0;
    return launch(rotate_row, dim3(static_cast<unsigned>(job.rows)), dim3(kThreads), 0, stream, job, cos, sin);
}

}  // namespace moestro::kernels::cuda
