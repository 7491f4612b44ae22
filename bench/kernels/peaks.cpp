#include "peaks.h"

#include <immintrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>

#include "base/memory.h"
#include "base/thread_pool.h"

namespace moestro::bench {

namespace {

constexpr std::size_t kReadBytes = std::size_t{1} << 30;
constexpr int kChunks = 256;
constexpr int kRepeats = 5;

template <class Work>
double best_seconds(const Work& work) {
    double best = 1e30;
    for (int i = 0; i < kRepeats; ++i) {
        const auto start = std::chrono::steady_clock::now();
        work();
        best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    return best;
}

__attribute__((target("avx2"))) std::uint64_t sum_bytes(const std::byte* from, std::size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (std::size_t i = 0; i < bytes; i += 128) {
        const auto* at = reinterpret_cast<const __m256i*>(from + i);
        a = _mm256_add_epi64(a, at[0]);
        b = _mm256_add_epi64(b, at[1]);
        c = _mm256_add_epi64(c, at[2]);
        d = _mm256_add_epi64(d, at[3]);
    }
    alignas(32) std::uint64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                       _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

constexpr std::int64_t kMultiplyAdds = 20'000'000;

__attribute__((target("avx2,fma"))) float multiply_add_256() {
    __m256 sums[12];
    const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-9f);
    for (__m256& sum : sums) sum = x;
    for (std::int64_t i = 0; i < kMultiplyAdds / 12; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < 12; ++k) sums[k] = _mm256_fmadd_ps(sums[k], x, y);
    }
    for (int k = 1; k < 12; ++k) sums[0] = _mm256_add_ps(sums[0], sums[k]);
    return _mm256_cvtss_f32(sums[0]);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own AVX-512 headers
__attribute__((target("avx512f"))) float multiply_add_512() {
    __m512 sums[12];
    const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-9f);
    for (__m512& sum : sums) sum = x;
    for (std::int64_t i = 0; i < kMultiplyAdds / 12; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < 12; ++k) sums[k] = _mm512_fmadd_ps(sums[k], x, y);
    }
    for (int k = 1; k < 12; ++k) sums[0] = _mm512_add_ps(sums[0], sums[k]);
    return _mm512_cvtss_f32(sums[0]);
}
#pragma GCC diagnostic pop

Peaks measure(int threads) {
    ThreadPool pool(threads);
    PageBuffer memory(kReadBytes, true);
    std::fill_n(memory.data(), memory.size(), std::byte{1});
    volatile std::uint64_t kept = 0;
    volatile float kept_float = 0;
    const double read = best_seconds([&] {
        pool.parallel_for(kChunks, [&](std::int64_t chunk, int) {
            kept = sum_bytes(memory.data() + chunk * static_cast<std::int64_t>(kReadBytes / kChunks),
                             kReadBytes / kChunks);
        });
    });
    const bool wide = __builtin_cpu_supports("avx512f");
    const double compute = best_seconds([&] {
        pool.parallel_for(threads,
                          [&](std::int64_t, int) { kept_float = wide ? multiply_add_512() : multiply_add_256(); });
    });
    const double operations = 2.0 * (wide ? 16 : 8) * static_cast<double>(kMultiplyAdds / 12 * 12) * threads;
    return {static_cast<double>(kReadBytes) / read, operations / compute};
}

}  // namespace

const Peaks& peaks(int threads) {
    static std::map<int, Peaks> measured;
    const auto found = measured.find(threads);
    return found != measured.end() ? found->second : measured.emplace(threads, measure(threads)).first->second;
}

}  // namespace moestro::bench
