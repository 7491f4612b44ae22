// What keys and values are stored as, by KvType.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"

namespace moestro::kernels::cuda {

struct Pair {
    float first, second;
};

struct KvF32 {
    using Element = float;
    static __device__ float widen(Element value) { return value; }
    static __device__ Element narrow(float value) { return value; }
    // Two neighbours at an even place.
    static __device__ Pair pair(const Element* at) {
        const float2 both = *reinterpret_cast<const float2*>(at);
        return {both.x, both.y};
    }
    // In magnitude, what is below stays finite when it is narrowed.
    static __device__ float bound() { return as_float(0x7f800000u); }
};

struct KvBf16 {
    using Element = std::uint16_t;
    static __device__ float widen(Element value) { return from_bf16(value); }
    static __device__ Element narrow(float value) { return to_bf16(value); }
    static __device__ Pair pair(const Element* at) {
        const std::uint32_t both = *reinterpret_cast<const std::uint32_t*>(at);
        return {as_float(both << 16), as_float(both & 0xffff0000u)};
    }
    static __device__ float bound() { return 0x1.ffp127f; }
};

struct KvF16 {
    using Element = std::uint16_t;
    static __device__ float widen(Element value) { return from_f16(value); }
    static __device__ Element narrow(float value) { return to_f16(value); }
    static __device__ Pair pair(const Element* at) {
        const std::uint32_t both = *reinterpret_cast<const std::uint32_t*>(at);
        return {from_f16(static_cast<std::uint16_t>(both)), from_f16(static_cast<std::uint16_t>(both >> 16))};
    }
    static __device__ float bound() { return 65520.0f; }
};

// Calls body.template operator()<Kv>().
template <class Body>
Status for_kv_type(KvType type, const Body& body) {
    if (type == KvType::bf16) return body.template operator()<KvBf16>();
    if (type == KvType::f16) return body.template operator()<KvF16>();
    return body.template operator()<KvF32>();
}

// Where one layer's parts lie: elements from the start of a layer's part of a block to a head's K and V, and from one
// value to the next.
struct KvPlaces {
    std::int64_t values = 0;  // of head 0; keys of head 0 are at 0
    std::int64_t key_step = 0, value_step = 0;
    int value_stride = 0;

    explicit KvPlaces(const KvLayout& layout)
        : values(layout.latent ? 0 : std::int64_t{layout.kv_heads} * layout.key_dim * kKvBlock),
          key_step(std::int64_t{layout.key_dim} * kKvBlock),
          value_step(layout.latent ? key_step : std::int64_t{layout.value_dim} * kKvBlock),
          value_stride(layout.latent ? layout.key_dim : layout.value_dim) {}
};

}  // namespace moestro::kernels::cuda
