// What kernels ask of the hardware, and nothing more. tests/cpp/cuda_shim has the same words for a processor, which is
// how kernels are executed without a GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#ifdef MOESTRO_CUDA_SHIM
#include <hardware_shim.h>
#else

namespace moestro::kernels::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;

// Rounded once, to nearest even, whatever the compiler is told. Subnormal numbers stay.
__device__ __forceinline__ float add(float a, float b) {
    return __fadd_rn(a, b);
}
__device__ __forceinline__ float sub(float a, float b) {
    return __fsub_rn(a, b);
}
__device__ __forceinline__ float mul(float a, float b) {
    return __fmul_rn(a, b);
}
__device__ __forceinline__ float div(float a, float b) {
    return __fdiv_rn(a, b);
}
__device__ __forceinline__ float fma(float a, float b, float c) {
    return __fmaf_rn(a, b, c);
}
__device__ __forceinline__ float sqrt(float a) {
    return __fsqrt_rn(a);
}
__device__ __forceinline__ float round_even(float a) {
    return rintf(a);
}
__device__ __forceinline__ float as_float(std::uint32_t bits) {
    return __uint_as_float(bits);
}
__device__ __forceinline__ std::uint32_t as_bits(float value) {
    return __float_as_uint(value);
}
__device__ __forceinline__ float from_f16(std::uint16_t bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
// To nearest even; beyond the largest becomes infinity.
__device__ __forceinline__ std::uint16_t to_f16(float value) {
    std::uint16_t bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

// c + the products of four signed bytes each.
__device__ __forceinline__ int dot4(int a, int b, int c) {
    return __dp4a(a, b, c);
}

// A warp's product of signed bytes, exact: c[16 x 8] += a[16 x 32] b[32 x 8]. As the fragments of mma.m16n8k32: with
// g = lane / 4 and t = lane % 4, a[0], a[1] hold row g and g + 8 at columns 4 t .. 4 t + 3, a[2], a[3] the same rows at
// 16 + 4 t ..; b[0], b[1] column g at rows 4 t .. and 16 + 4 t ..; c[0], c[1] row g at columns 2 t, 2 t + 1, c[2], c[3]
// row g + 8. All lanes call it together.
__device__ __forceinline__ void mma_s8(int (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
        "%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else  // Turing has the quarter of it
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[0]), "+r"(c[1])
        : "r"(a[0]), "r"(b[0]));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[0]), "+r"(c[1])
        : "r"(a[2]), "r"(b[1]));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[2]), "+r"(c[3])
        : "r"(a[1]), "r"(b[0]));
    asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+r"(c[2]), "+r"(c[3])
        : "r"(a[3]), "r"(b[1]));
#endif
}

// c[16 x 8] += a[16 x 16] b[16 x 8] of bf16 pairs in float, as mma.m16n8k16 sums them. Only from sm_80 on.
__device__ __forceinline__ void mma_bf16(float (&c)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
        "%2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// Loads of weights: read once, so they need not stay in the first-level cache.
__device__ __forceinline__ uint2 stream_load(const uint2* from) {
    uint2 value;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(from));
    return value;
}
__device__ __forceinline__ uint4 stream_load(const uint4* from) {
    uint4 value;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "l"(from));
    return value;
}
__device__ __forceinline__ std::uint32_t stream_load(const std::uint32_t* from) {
    std::uint32_t value;
    asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(value) : "l"(from));
    return value;
}

// 16 bytes to shared memory, in groups that can be waited for. Where there is no such copy (before sm_80) it is done
// at once.
__device__ __forceinline__ void copy_async(void* to_shared, const void* from) {
#if __CUDA_ARCH__ >= 800
    const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(to_shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(from) : "memory");
#else
    *static_cast<uint4*>(to_shared) = *static_cast<const uint4*>(from);
#endif
}
__device__ __forceinline__ void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int kStillUnderWay>
__device__ __forceinline__ void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kStillUnderWay) : "memory");
#endif
}

// What other blocks of the same launch may have written: from the cache that they share.
__device__ __forceinline__ std::uint32_t load_fresh(const std::uint32_t* from) {
    std::uint32_t value;
    asm volatile("ld.global.cg.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
    return value;
}
__device__ __forceinline__ uint2 load_fresh(const uint2* from) {
    uint2 value;
    asm volatile("ld.global.cg.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(from) : "memory");
    return value;
}

// Whether other blocks wrote: not before they marked it.
__device__ __forceinline__ std::uint32_t load_mark(const std::uint32_t* mark) {
    return *const_cast<const volatile std::uint32_t*>(mark);
}

// A launch's dynamic shared memory, 16-byte aligned.
__device__ __forceinline__ std::byte* shared_memory() {
    extern __shared__ uint4 moestro_shared[];
    return reinterpret_cast<std::byte*>(moestro_shared);
}

}  // namespace moestro::kernels::cuda
#endif
