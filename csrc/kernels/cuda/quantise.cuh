// Quantising activations: a warp takes a group, a lane an element of it.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launching.cuh"

namespace moestro::kernels::cuda {

// `value`: the lane's element, 0 beyond the row's end. `group`: number of the group over all rows.
__device__ inline void quantise_group(float value, std::int64_t group, const Codes& to, std::uint32_t* fault) {
    const unsigned lane = threadIdx.x % 32;
    std::uint32_t magnitude = as_bits(value) & 0x7fffffffu;  // ordered as the numbers are, what is not finite above all
    for (int step = 16; step; step /= 2) {
        const std::uint32_t other = __shfl_xor_sync(kAllLanes, magnitude, step);
        magnitude = other > magnitude ? other : magnitude;
    }
    if (magnitude >= 0x7f800000u && lane == 0) leave_fault(fault, Fault::quantise);
    const float scale = div(as_float(magnitude), 127.0f);
    // Divided by 1 where the scale is 0, values below 127 / 2^149 round to the zero codes wanted.
    const float steps = div(value, scale == 0.0f ? 1.0f : scale);
    const int code = static_cast<int>(round_even(steps < -127.0f ? -127.0f : steps < 127.0f ? steps : 127.0f));
    int sum = code;
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    to.codes[group * 32 + lane] = static_cast<std::int8_t>(code);
    if (lane == 0) {
        to.scales[group] = scale;
        to.sums[group] = sum;
    }
}

}  // namespace moestro::kernels::cuda
