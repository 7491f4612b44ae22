// What nvcc knows of itself, for g++: the words of a kernel's language, and its launch. A block that runs has all the
// __shared__ memory for itself. It is found by its section; the one of a template's, which g++ ignores, shared.ld knows
// for kernels of .cu files only.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#include "block.h"
#include "cuda_runtime_api.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __shared__ static __attribute__((section("moestro_shared")))
#define __launch_bounds__(...)
#define __forceinline__ inline __attribute__((always_inline))
#define __align__(bytes) __attribute__((aligned(bytes)))

struct uint3 {
    unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define MOESTRO_SHIM_VECTORS(type, name)                            \
    struct alignas(2 * sizeof(type)) name##2 {                      \
        type x, y;                                                  \
    };                                                              \
    struct name##3 {                                                \
        type x, y, z;                                               \
    };                                                              \
    struct alignas(4 * sizeof(type)) name##4 {                      \
        type x, y, z, w;                                            \
    };                                                              \
    inline name##2 make_##name##2(type x, type y) {                 \
        return {x, y};                                              \
    }                                                               \
    inline name##3 make_##name##3(type x, type y, type z) {         \
        return {x, y, z};                                           \
    }                                                               \
    inline name##4 make_##name##4(type x, type y, type z, type w) { \
        return {x, y, z, w};                                        \
    }
MOESTRO_SHIM_VECTORS(int, int)
MOESTRO_SHIM_VECTORS(float, float)
MOESTRO_SHIM_VECTORS(signed char, char)
MOESTRO_SHIM_VECTORS(unsigned char, uchar)
MOESTRO_SHIM_VECTORS(short, short)
MOESTRO_SHIM_VECTORS(unsigned short, ushort)
#undef MOESTRO_SHIM_VECTORS
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}

// Of the thread that runs now.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

using std::max;
using std::min;

// ---- barriers -------------------------------------------------------------------------------------------------------
inline void __syncthreads() {
    moestro::cuda_shim::meet_block([](void* const*, unsigned) {}, &threadIdx);
}

namespace moestro::cuda_shim {

enum class Vote { any, all, count, ballot };

// Everybody brings a number and takes what they make of it together.
template <Vote kVote>
void vote(void* const* brought, unsigned count) {
    unsigned sum = 0, asked = 0, ballot = 0;
    for (unsigned i = 0; i < count; ++i)
        if (brought[i]) {
            const bool yes = *static_cast<const unsigned*>(brought[i]) != 0;
            ++asked;
            sum += yes;
            if (yes && i < 32) ballot |= 1u << i;
        }
    const unsigned result = kVote == Vote::any     ? sum != 0
                            : kVote == Vote::all   ? sum == asked
                            : kVote == Vote::count ? sum
                                                   : ballot;
    for (unsigned i = 0; i < count; ++i)
        if (brought[i]) *static_cast<unsigned*>(brought[i]) = result;
}

enum class Shuffle { index, exclusive_or, up, down };

template <class T>
struct Shuffled {
    T value;
    int from;
};

// From a lane that is not asked comes what is nobody's.
template <class T, Shuffle kShuffle>
void shuffle(void* const* brought, unsigned count) {
    T values[32];
    std::memset(static_cast<void*>(values), 0xFF, sizeof values);
    for (unsigned i = 0; i < count; ++i)
        if (brought[i]) values[i] = static_cast<const Shuffled<T>*>(brought[i])->value;
    for (unsigned i = 0; i < count; ++i)
        if (brought[i]) {
            auto* const mine = static_cast<Shuffled<T>*>(brought[i]);
            mine->value = values[mine->from & 31];
        }
}

template <Shuffle kShuffle, class T>
T shuffle_of(unsigned mask, T value, int by, int width) {
    const int lane = static_cast<int>(moestro::cuda_shim::lane());
    const int begin = lane / width * width;
    int from = lane;
    if constexpr (kShuffle == Shuffle::index) from = begin + (by & (width - 1));
    if constexpr (kShuffle == Shuffle::exclusive_or) from = (lane ^ by) < begin + width ? lane ^ by : lane;
    if constexpr (kShuffle == Shuffle::up) from = lane - by >= begin ? lane - by : lane;
    if constexpr (kShuffle == Shuffle::down) from = lane + by < begin + width ? lane + by : lane;
    Shuffled<T> mine{value, from};
    meet_warp(mask, shuffle<T, kShuffle>, &mine);
    return mine.value;
}

template <Vote kVote>
unsigned vote_of_block(bool yes) {
    unsigned mine = yes;
    meet_block(vote<kVote>, &mine);
    return mine;
}
template <Vote kVote>
unsigned vote_of_warp(unsigned mask, bool yes) {
    unsigned mine = yes;
    meet_warp(mask, vote<kVote>, &mine);
    return mine;
}

}  // namespace moestro::cuda_shim

inline int __syncthreads_or(int yes) {
    return static_cast<int>(moestro::cuda_shim::vote_of_block<moestro::cuda_shim::Vote::any>(yes != 0));
}
inline int __syncthreads_and(int yes) {
    return static_cast<int>(moestro::cuda_shim::vote_of_block<moestro::cuda_shim::Vote::all>(yes != 0));
}
inline int __syncthreads_count(int yes) {
    return static_cast<int>(moestro::cuda_shim::vote_of_block<moestro::cuda_shim::Vote::count>(yes != 0));
}

// ---- a warp ---------------------------------------------------------------------------------------------------------
inline void __syncwarp(unsigned mask = 0xffffffffu) {
    moestro::cuda_shim::meet_warp(
        mask, [](void* const*, unsigned) {}, &threadIdx);
}
inline unsigned __activemask() = delete;  // no promise of hardware
inline unsigned __ballot_sync(unsigned mask, int yes) {
    return moestro::cuda_shim::vote_of_warp<moestro::cuda_shim::Vote::ballot>(mask, yes != 0);
}
inline int __any_sync(unsigned mask, int yes) {
    return static_cast<int>(moestro::cuda_shim::vote_of_warp<moestro::cuda_shim::Vote::any>(mask, yes != 0));
}
inline int __all_sync(unsigned mask, int yes) {
    return static_cast<int>(moestro::cuda_shim::vote_of_warp<moestro::cuda_shim::Vote::all>(mask, yes != 0));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32) {
    return moestro::cuda_shim::shuffle_of<moestro::cuda_shim::Shuffle::index>(mask, value, lane, width);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    return moestro::cuda_shim::shuffle_of<moestro::cuda_shim::Shuffle::exclusive_or>(mask, value, bits, width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return moestro::cuda_shim::shuffle_of<moestro::cuda_shim::Shuffle::up>(mask, value, static_cast<int>(by), width);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
    return moestro::cuda_shim::shuffle_of<moestro::cuda_shim::Shuffle::down>(mask, value, static_cast<int>(by), width);
}

// ---- memory and bits ------------------------------------------------------------------------------------------------
// Of one operating system's thread: nothing comes between, but afterwards others may.
template <class T>
T atomicAdd(T* at, std::common_type_t<T> value) {
    const T before = *at;
    *at = before + value;
    moestro::cuda_shim::step_aside();
    return before;
}
template <class T>
T atomicMax(T* at, std::common_type_t<T> value) {
    const T before = *at;
    *at = std::max(before, value);
    moestro::cuda_shim::step_aside();
    return before;
}
template <class T>
T atomicMin(T* at, std::common_type_t<T> value) {
    const T before = *at;
    *at = std::min(before, value);
    moestro::cuda_shim::step_aside();
    return before;
}
template <class T>
T atomicOr(T* at, std::common_type_t<T> value) {
    const T before = *at;
    *at = before | value;
    moestro::cuda_shim::step_aside();
    return before;
}
template <class T>
T atomicExch(T* at, std::common_type_t<T> value) {
    const T before = std::exchange(*at, value);
    moestro::cuda_shim::step_aside();
    return before;
}
template <class T>
T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> value) {
    const T before = *at;
    if (before == expected) *at = value;
    moestro::cuda_shim::step_aside();
    return before;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) {
    moestro::cuda_shim::let_others(nullptr);
}
template <class T>
T __ldg(const T* from) {
    return *from;
}
inline int __popc(unsigned bits) {
    return __builtin_popcount(bits);
}
inline int __ffs(int bits) {
    return __builtin_ffs(bits);
}
inline int __clz(int bits) {
    return bits ? __builtin_clz(static_cast<unsigned>(bits)) : 32;
}
// Byte i is the one of the eight of (low, high) that nibble i names.
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned which) {
    const std::uint64_t all = std::uint64_t{high} << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned nibble = which >> 4 * i & 15;
        unsigned byte = static_cast<unsigned>(all >> 8 * (nibble & 7)) & 0xff;
        if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
        result |= byte << 8 * i;
    }
    return result;
}

// ---- launches -------------------------------------------------------------------------------------------------------
enum cudaLaunchAttributeID {
    cudaLaunchAttributeCooperative = 2,
    cudaLaunchAttributeProgrammaticStreamSerialization = 6
};
union cudaLaunchAttributeValue {
    int cooperative;
    int programmaticStreamSerializationAllowed;
};
struct cudaLaunchAttribute {
    cudaLaunchAttributeID id;
    cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    std::size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
    cudaLaunchAttribute* attrs = nullptr;
    unsigned numAttrs = 0;
};

namespace moestro::cuda_shim {
cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread);
cudaError_t allow_shared(const void* kernel, int bytes);
int resident_blocks(int threads, std::size_t shared_bytes);
}  // namespace moestro::cuda_shim

// Arguments are copied, as hardware does.
template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
    static_assert((std::is_trivially_copyable_v<std::remove_reference_t<Parameters>> && ...));
    std::tuple<std::remove_cv_t<Parameters>...> copied(std::forward<Arguments>(arguments)...);
    return moestro::cuda_shim::launch(*config, reinterpret_cast<const void*>(kernel),
                                      [kernel, copied] { std::apply(kernel, copied); });
}

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
template <class T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    return moestro::cuda_shim::allow_shared(reinterpret_cast<const void*>(kernel), value);
}
template <class T>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, T*, int threads, std::size_t shared_bytes) {
    *blocks = moestro::cuda_shim::resident_blocks(threads, shared_bytes);
    return cudaSuccess;
}
