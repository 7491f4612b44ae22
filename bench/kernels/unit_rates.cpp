// Twelve independent chains of the unit's instruction: more than latency x units on every CPU so far.
#include "unit_rates.h"

#include <immintrin.h>

#include <cstdint>

#include "seconds.h"

namespace moestro::bench {

namespace {

constexpr int kChains = 12;
constexpr std::int64_t kRounds = 1'500'000;

struct Unit {
    const char* isa;
    const char* type;
    int operations;  // of one chain's step
    void (*run)();
    bool usable;
};

template <class Vector>
void keep(const Vector* chains) {
    asm volatile("" : : "r"(chains) : "memory");
}

__attribute__((target("avx2,fma"))) void f32_avx2() {
    __m256 chains[kChains];
    const __m256 x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-9f);
    for (__m256& chain : chains) chain = x;
    for (std::int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) chains[k] = _mm256_fmadd_ps(chains[k], x, y);
    }
    keep(chains);
}

// vpmaddubsw into 16-bit sums; widening them, as every product must now and then, is left out. Written out, because the
// compiler takes a product of constants out of the loop, or keeps chains in memory.
__attribute__((target("avx2"))) void int8_avx2() {
#define MOESTRO_STEP(chain) "vpmaddubsw %%ymm15, %%ymm14, %%ymm13\n\tvpaddw %%ymm13, " chain ", " chain "\n\t"
    for (std::int64_t i = 0; i < kRounds; ++i)
        asm volatile(MOESTRO_STEP("%%ymm0") MOESTRO_STEP("%%ymm1") MOESTRO_STEP("%%ymm2") MOESTRO_STEP("%%ymm3")
                         MOESTRO_STEP("%%ymm4") MOESTRO_STEP("%%ymm5") MOESTRO_STEP("%%ymm6") MOESTRO_STEP("%%ymm7")
                             MOESTRO_STEP("%%ymm8") MOESTRO_STEP("%%ymm9") MOESTRO_STEP("%%ymm10")
                                 MOESTRO_STEP("%%ymm11")
                     :
                     :
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm13", "xmm14", "xmm15");
#undef MOESTRO_STEP
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own AVX-512 headers
__attribute__((target("avx512f"))) void f32_avx512() {
    __m512 chains[kChains];
    const __m512 x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-9f);
    for (__m512& chain : chains) chain = x;
    for (std::int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) chains[k] = _mm512_fmadd_ps(chains[k], x, y);
    }
    keep(chains);
}

__attribute__((target("avx512f,avx512vnni"))) void int8_avx512() {
    __m512i chains[kChains];
    const __m512i x = _mm512_set1_epi32(0x03020103);
    for (__m512i& chain : chains) chain = x;
    for (std::int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) chains[k] = _mm512_dpbusd_epi32(chains[k], x, x);
    }
    keep(chains);
}

__attribute__((target("avx512f,avx512bf16"))) void bf16_avx512() {
    __m512 chains[kChains];
    const __m512bh x = (__m512bh)_mm512_set1_epi32(0x3c003c00);
    for (__m512& chain : chains) chain = _mm512_setzero_ps();
    for (std::int64_t i = 0; i < kRounds; ++i) {
#pragma GCC unroll 12
        for (int k = 0; k < kChains; ++k) chains[k] = _mm512_dpbf16_ps(chains[k], x, x);
    }
    keep(chains);
}
#pragma GCC diagnostic pop

double operations_per_second(ThreadPool& pool, const Unit& unit) {
    const double seconds =
        best_seconds([&] { pool.parallel_for(pool.threads(), [&](std::int64_t, int) { unit.run(); }); });
    return static_cast<double>(kRounds) * kChains * unit.operations * pool.threads() / seconds;
}

}  // namespace

std::vector<UnitRate> measure_units(ThreadPool& pool) {
    const bool avx512 = __builtin_cpu_supports("avx512f");
    const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
    const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
    const Unit units[] = {{"avx2", "f32", 16, f32_avx2, true},
                          {"avx2", "int8", 64, int8_avx2, true},
                          {"avx512", "f32", 32, f32_avx512, avx512},
                          {"avx512", "int8", 128, int8_avx512, vnni},
                          {"avx512", "bf16", 64, bf16_avx512, bf16}};
    std::vector<UnitRate> rates;
    for (const Unit& unit : units)
        if (unit.usable) rates.push_back({unit.isa, unit.type, operations_per_second(pool, unit)});
    return rates;
}

}  // namespace moestro::bench
