#include <cstring>

#include "kernels/cuda/launching.cuh"
#include "kernels/cuda/panels.cuh"
#include "peaks.h"

namespace moestro::bench {

namespace {

using namespace kernels::cuda;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kLoads = 8;  // of 16 bytes under way in a thread

__global__ void __launch_bounds__(kThreads) read_all(const uint4* from, std::int64_t count, std::uint32_t* sink) {
    const std::int64_t step = std::int64_t{gridDim.x} * kThreads;
    std::uint32_t mixed = 0;
    std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    for (; at + (kLoads - 1) * step < count; at += kLoads * step) {
        uint4 words[kLoads];
#pragma unroll
        for (int i = 0; i < kLoads; ++i) words[i] = stream_load(from + at + i * step);
#pragma unroll
        for (int i = 0; i < kLoads; ++i) mixed ^= words[i].x ^ words[i].y ^ words[i].z ^ words[i].w;
    }
    if (mixed == 0x9e3779b9u) *sink = mixed;  // so that it is needed
}

// Operands of a warp's step: two fragments of weights times four of activations, as the kernel of many rows has them.
struct Operands {
    std::uint32_t a[2][4], b[4][2];
    float2 w[2], x[4];

    __device__ explicit Operands(std::uint32_t seed) {
        std::uint32_t word = (threadIdx.x + 1) * 2654435761u ^ seed;
        const auto next = [&word] { return word = word * 1664525u + 1013904223u; };
        for (auto& fragment : a)
            for (std::uint32_t& some : fragment) some = next();
        for (auto& fragment : b)
            for (std::uint32_t& some : fragment) some = next();
        for (float2& two : w) two = make_float2(small(next()), small(next()));
        for (float2& two : x) two = make_float2(small(next()), small(next()));
    }
    // Those of a step: others in each, or the compiler would compute one for all. turned: some low bits.
    __device__ __forceinline__ Operands at(std::uint32_t turned) const {
        Operands now = *this;
#pragma unroll
        for (int n = 0; n < 4; ++n) now.b[n][0] ^= turned;
#pragma unroll
        for (int p = 0; p < 2; ++p) {
            now.w[p].x = as_float(as_bits(w[p].x) ^ turned);
            now.w[p].y = as_float(as_bits(w[p].y) ^ turned);
        }
        return now;
    }
    static __device__ float small(std::uint32_t bits) {
        return as_float((bits & 0x007fffffu) | 0x38000000u);
    }
};

// Eight products of fragments per step: the tensor cores alone, or each group's dots scaled and added up as well.
template <bool kScaled>
__global__ void __launch_bounds__(kThreads, 2) int8_loop(int steps, std::uint32_t seed, float* sink) {
    const Operands operands(seed);
    float acc[2][4][4] = {};
    int dots[2][4][4] = {};
    for (int step = 0; step < steps; ++step) {
        const Operands now = operands.at(static_cast<std::uint32_t>(step));
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
            for (int p = 0; p < 2; ++p) {
                if constexpr (kScaled) {
                    int fresh[4] = {kDotStart, kDotStart, kDotStart, kDotStart};
                    mma_s8(fresh, now.a[p], now.b[n]);
                    const float2 w = now.w[p], x = now.x[n];
                    acc[p][n][0] = fma(mul(w.x, x.x), dot_of(fresh[0]), acc[p][n][0]);
                    acc[p][n][1] = fma(mul(w.x, x.y), dot_of(fresh[1]), acc[p][n][1]);
                    acc[p][n][2] = fma(mul(w.y, x.x), dot_of(fresh[2]), acc[p][n][2]);
                    acc[p][n][3] = fma(mul(w.y, x.y), dot_of(fresh[3]), acc[p][n][3]);
                } else {
                    mma_s8(dots[p][n], now.a[p], now.b[n]);
                }
            }
    }
    float total = 0.0f;
    for (int i = 0; i < 32; ++i)
        total = add(total, add(acc[i / 16][i / 4 % 4][i % 4], static_cast<float>(dots[i / 16][i / 4 % 4][i % 4])));
    if (total == 0.5f) *sink = total;
}

__global__ void __launch_bounds__(kThreads, 2) bf16_loop(int steps, std::uint32_t seed, float* sink) {
    Operands operands(seed);
    // The bits of numbers near one, two to a word.
    for (auto& fragment : operands.a)
        for (std::uint32_t& some : fragment) some = (some & 0x807f807fu) | 0x3f003f00u;
    for (auto& fragment : operands.b)
        for (std::uint32_t& some : fragment) some = (some & 0x807f807fu) | 0x3f003f00u;
    float acc[2][4][4] = {};
    for (int step = 0; step < steps; ++step) {
        const Operands now = operands.at(static_cast<std::uint32_t>(step) & 0x7f);
#pragma unroll
        for (int i = 0; i < 8; ++i) mma_bf16(acc[i / 4][i % 4], now.a[i / 4], now.b[i % 4]);
    }
    float total = 0.0f;
    for (int i = 0; i < 32; ++i) total = add(total, acc[i / 16][i / 4 % 4][i % 4]);
    if (total == 0.5f) *sink = total;
}

constexpr int kChains = 32;  // of fused multiply-adds in a thread

__global__ void __launch_bounds__(kThreads, 2) f32_loop(int steps, float factor, float* sink) {
    float acc[kChains];
    for (int i = 0; i < kChains; ++i) acc[i] = static_cast<float>(threadIdx.x + i);
    for (int step = 0; step < steps; ++step)
#pragma unroll
        for (int i = 0; i < kChains; ++i) acc[i] = kernels::cuda::fma(acc[i], factor, 1.0f);
    float total = 0.0f;
    for (int i = 0; i < kChains; ++i) total = add(total, acc[i]);
    if (total == 0.5f) *sink = total;
}

class Peaks {
  public:
    Peaks(const Device& device, const Stream& stream, std::size_t bytes, const Results& results)
        : device_(device), stream_(stream), bytes_(bytes), results_(results), sink_(1) {}

    Limits measure() {
        Limits limits;
        limits.read = reads();
        copies();
        limits.int8 = loop("int8 tensor cores", int8_loop<false>, kMmaOps, kSeed);
        limits.mixed = loop("int8 and scaling", int8_loop<true>, kMmaOps, kSeed);
        if (device_.major >= 8) loop("bf16 tensor cores", bf16_loop, kMmaOps / 2, kSeed);
        loop("f32 fma", f32_loop, 32.0 * kChains * 2, 0.5f);
        return limits;
    }

  private:
    static constexpr double kMmaOps = 8 * 2.0 * 16 * 8 * 32;  // of a warp's step
    static constexpr std::uint32_t kSeed = 12345;

    double reads() {
        OnDevice<std::byte> data = zeros<std::byte>(bytes_);
        check(cudaMemset(data.data(), 0x5a, bytes_), "fill device memory");
        settle();
        const auto blocks = dim3(static_cast<unsigned>(device_.multiprocessors) * 8);
        const double seconds = seconds_of(stream_, [&] {
            check(
                launch(read_all, blocks, dim3(kThreads), 0, stream_.get(), reinterpret_cast<const uint4*>(data.data()),
                       static_cast<std::int64_t>(bytes_ / 16), reinterpret_cast<std::uint32_t*>(sink_.data())),
                "launch a kernel");
        });
        return rate("read", static_cast<double>(bytes_) / seconds);
    }

    void copies() {
        const OnDevice<std::byte> from = zeros<std::byte>(bytes_), to = zeros<std::byte>(bytes_);
        const double half = timed_copy(to.data(), from.data(), bytes_);
        rate("copy (read + written)", 2 * half);
        const std::size_t bytes = bytes_ / 8;
        std::vector<std::byte> pageable(bytes, std::byte{1});
        void* pinned = nullptr;
        check(cudaHostAlloc(&pinned, bytes, cudaHostAllocDefault), "allocate pinned memory");
        std::memset(pinned, 1, bytes);
        rate("host to device, pinned", timed_copy(to.data(), pinned, bytes));
        rate("device to host, pinned", timed_copy(pinned, from.data(), bytes));
        rate("host to device, pageable", timed_copy(to.data(), pageable.data(), bytes));
        rate("device to host, pageable", timed_copy(pageable.data(), from.data(), bytes));
        cudaFreeHost(pinned);
    }
    double timed_copy(void* to, const void* from, std::size_t bytes) {
        return static_cast<double>(bytes) / seconds_of(stream_, [&] {
                   check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_.get()), "copy");
               });
    }

    // operations: of a warp's step. turn: what keeps the compiler from knowing the operands.
    template <class Turn>
    double loop(const char* name, void (*kernel)(int, Turn, float*), double operations, Turn turn) {
        constexpr int kSteps = 20000;
        const auto blocks = static_cast<unsigned>(device_.multiprocessors) * 2;
        const double seconds = seconds_of(stream_, [&] {
            check(launch(kernel, dim3(blocks), dim3(kThreads), 0, stream_.get(), kSteps, turn, sink_.data()),
                  "launch a kernel");
        });
        const double per_second = blocks * kWarps * double{kSteps} * operations / seconds;
        results_.add("limit", name, {{"tops", per_second / 1e12}});
        return per_second;
    }
    double rate(const char* name, double bytes_per_second) {
        results_.add("limit", name, {{"gb_per_s", bytes_per_second / 1e9}});
        return bytes_per_second;
    }

    const Device& device_;
    const Stream& stream_;
    std::size_t bytes_;
    const Results& results_;
    OnDevice<float> sink_;
};

}  // namespace

Limits measure_peaks(const Device& device, const Stream& stream, std::size_t megabytes, const Results& results) {
    return Peaks(device, stream, megabytes << 22, results).measure();
}

}  // namespace moestro::bench
