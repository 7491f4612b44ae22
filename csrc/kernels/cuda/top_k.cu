// The largest of a row in one pass over it. What is larger than the k-th largest known so far is kept; when there is no
// room for more, what was kept is sorted and all but k of it dropped. Which comes first changes nothing: no two keys
// are equal.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launching.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 1024, kRoom = 2 * kThreads;
constexpr int kAtOnce = 8;  // elements of a thread
using Key = unsigned long long;

// Ascending as values do, and for equal ones as ids descend. NaN is below all; nothing has key 0.
__device__ Key key_of(float value, int id) {
    const std::uint32_t bits = value == 0.0f ? 0u : as_bits(value);  // both zeros are equal
    const std::uint32_t ordered = value != value ? 0u : bits >> 31 ? ~bits : bits | 0x80000000u;
    return Key{ordered} << 32 | ~static_cast<std::uint32_t>(id);
}

// Bitonic, descending.
__device__ void sort(Key* keys) {
    const int thread = static_cast<int>(threadIdx.x);
    for (int size = 2; size <= kRoom; size *= 2)
        for (int apart = size / 2; apart > 0; apart /= 2) {
            const int at = 2 * thread - (thread & (apart - 1));
            const Key a = keys[at], b = keys[at + apart];
            if ((a < b) == ((at & size) == 0)) {
                keys[at] = b;
                keys[at + apart] = a;
            }
            __syncthreads();
        }
}

__global__ void __launch_bounds__(kThreads) top_k_row(const float* x, int n, int k, float* values, std::int32_t* ids) {
    __shared__ Key keys[kRoom];
    __shared__ int kept;
    const int thread = static_cast<int>(threadIdx.x);
    const float* row = x + std::int64_t{blockIdx.x} * n;
    if (thread == 0) kept = 0;
    Key threshold = 0;
    __syncthreads();
    for (int begin = 0; begin < n; begin += kAtOnce * kThreads) {
        Key mine[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            const int i = begin + j * kThreads + thread;
            mine[j] = i < n ? key_of(row[i], i) : 0;
        }
        bool waiting;
        do {
            waiting = false;
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
                if (mine[j] > threshold) {
                    const int at = atomicAdd(&kept, 1);
                    if (at < kRoom) {
                        keys[at] = mine[j];
                        mine[j] = 0;
                    } else {
                        waiting = true;
                    }
                }
            waiting = __syncthreads_or(waiting);
            if (waiting) {  // there is no room
                sort(keys);
                threshold = keys[k - 1];
                if (thread == 0) kept = k;
                __syncthreads();
            }
        } while (waiting);
    }
    for (int i = kept + thread; i < kRoom; i += kThreads) keys[i] = 0;
    __syncthreads();
    sort(keys);
    for (int j = thread; j < k; j += kThreads) {
        const auto id = static_cast<std::int32_t>(~static_cast<std::uint32_t>(keys[j]));
        ids[std::int64_t{blockIdx.x} * k + j] = id;
        values[std::int64_t{blockIdx.x} * k + j] = row[id];
    }
}

}  // namespace

Status top_k(const float* x, int rows, int n, int k, float* values, std::int32_t* ids, Stream stream) {
    if (rows == 0) return 0;
    return launch(top_k_row, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, stream, x, n, k, values, ids);
}

}  // namespace moestro::kernels::cuda
