#include "read_rates.h"

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "base/memory.h"
#include "seconds.h"

namespace moestro::bench {

namespace {

constexpr std::size_t kBytes = std::size_t{1} << 30;
constexpr int kChunks = 256;
constexpr std::size_t kChunkBytes = kBytes / kChunks;
constexpr std::size_t kStep = 128;
constexpr std::size_t kAhead = 2048;  // far enough to cover a miss; a chunk's last prefetches reach the next chunk

using Read = std::uint64_t (*)(const std::byte* from);

// Sums a chunk as `streams` streams side by side, so that no load can be left out.
template <int streams, bool prefetch>
__attribute__((target("avx2"))) std::uint64_t read_chunk(const std::byte* from) {
    constexpr std::size_t length = kChunkBytes / streams;
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (std::size_t i = 0; i < length; i += kStep) {
#pragma GCC unroll 4
        for (int stream = 0; stream < streams; ++stream) {
            const std::byte* place = from + static_cast<std::size_t>(stream) * length + i;
            if constexpr (prefetch) {
                _mm_prefetch(reinterpret_cast<const char*>(place + kAhead), _MM_HINT_T0);
                _mm_prefetch(reinterpret_cast<const char*>(place + kAhead + 64), _MM_HINT_T0);
            }
            const auto* at = reinterpret_cast<const __m256i*>(place);
            a = _mm256_add_epi64(a, at[0]);
            b = _mm256_add_epi64(b, at[1]);
            c = _mm256_add_epi64(c, at[2]);
            d = _mm256_add_epi64(d, at[3]);
        }
    }
    alignas(32) std::uint64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                       _mm256_add_epi64(_mm256_add_epi64(a, b), _mm256_add_epi64(c, d)));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

double bytes_per_second(ThreadPool& pool, const PageBuffer& memory, Read read) {
    volatile std::uint64_t kept = 0;
    const double seconds = median_seconds([&] {
        pool.parallel_for(kChunks, [&](std::int64_t chunk, int) {
            kept = read(memory.data() + static_cast<std::size_t>(chunk) * kChunkBytes);
        });
    });
    return static_cast<double>(kBytes) / seconds;
}

}  // namespace

std::vector<ReadRate> measure_reads(ThreadPool& pool) {
    PageBuffer memory(kBytes, true);
    std::fill_n(memory.data(), memory.size(), std::byte{1});
    const auto rate = [&](Read read) { return bytes_per_second(pool, memory, read); };
    return {{1, false, rate(read_chunk<1, false>)}, {1, true, rate(read_chunk<1, true>)},
            {2, false, rate(read_chunk<2, false>)}, {2, true, rate(read_chunk<2, true>)},
            {4, false, rate(read_chunk<4, false>)}, {4, true, rate(read_chunk<4, true>)}};
}

}  // namespace moestro::bench
