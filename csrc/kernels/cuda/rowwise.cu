// Operations on single elements, and on rows of them.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launching.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 256;
constexpr std::int64_t kMostBlocks = 4096;

struct Sum {
    float* x;
    const float* y;
    __device__ void operator()(std::int64_t i) const { x[i] = cuda::add(x[i], y[i]); }
};
struct ScaledSum {
    float* x;
    float factor;
    const float* y;
    __device__ void operator()(std::int64_t i) const { x[i] = fma(factor, y[i], x[i]); }
};
struct Product {
    float* x;
    float factor;
    __device__ void operator()(std::int64_t i) const { x[i] = mul(x[i], factor); }
};
struct SigmoidProduct {
    float* x;
    const float* gate;
    __device__ void operator()(std::int64_t i) const { x[i] = mul(x[i], sigmoid(gate[i])); }
};
struct Clamp {
    float* x;
    float bound;
    __device__ void operator()(std::int64_t i) const { x[i] = within(x[i], bound); }
};
struct Softcap {
    float* x;
    float cap;
    __device__ void operator()(std::int64_t i) const { x[i] = cuda::softcap(x[i], cap); }
};
template <class Each>
__global__ void __launch_bounds__(kThreads) elementwise(Each each, std::int64_t count) {
    const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
    for (std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) each(i);
}

template <class Each>
Status for_each(const Each& each, std::int64_t count, Stream stream) {
    if (count == 0) return 0;
    const std::int64_t blocks = (count + kThreads - 1) / kThreads;
    return launch(elementwise<Each>, dim3(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)),
                  dim3(kThreads), 0, stream, each, count);
}

// A block per row.
template <bool kSigmoid>
__global__ void __launch_bounds__(kThreads) scale_row(float* x, const float* factors, int n) {
    float* row = x + std::int64_t{blockIdx.x} * n;
    const float given = factors[blockIdx.x], factor = kSigmoid ? sigmoid(given) : given;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) row[i] = mul(row[i], factor);
}

}  // namespace

Status add(float* x, const float* y, std::int64_t count, Stream stream) {
    return for_each(Sum{x, y}, count, stream);
}

Status add_scaled(float* x, float factor, const float* y, std::int64_t count, Stream stream) {
    return for_each(ScaledSum{x, factor, y}, count, stream);
}

Status scale(float* x, float factor, std::int64_t count, Stream stream) {
    return for_each(Product{x, factor}, count, stream);
}

Status sigmoid_mul(float* x, const float* gate, std::int64_t count, Stream stream) {
    return for_each(SigmoidProduct{x, gate}, count, stream);
}

Status clamp(float* x, float bound, std::int64_t count, Stream stream) {
    return for_each(Clamp{x, bound}, count, stream);
}

Status softcap(float* x, float cap, std::int64_t count, Stream stream) {
    return for_each(Softcap{x, cap}, count, stream);
}

Status scale_rows(float* x, const float* factors, int rows, int n, Stream stream) {
    if (rows == 0) return 0;
    return launch(scale_row<false>, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, stream, x, factors, n);
}

Status scale_rows_by_sigmoid(float* x, const float* logits, int rows, int n, Stream stream) {
    if (rows == 0) return 0;
    return launch(scale_row<true>, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, stream, x, logits, n);
}

}  // namespace moestro::kernels::cuda
