// Sums and maxima over the lanes of a warp.
#pragma once

#include "kernels/cuda/arithmetic.cuh"

namespace moestro::kernels::cuda {

// The fixed tree of docs/numerics.md over 16 partial sums, one per lane of half a warp: lane i += lane i + 8, then + 4,
// + 2, + 1. Every lane gets the sum, for the order of two operands does not matter.
__device__ __forceinline__ float sum_of_lanes(float lane) {
    for (int step = 8; step > 0; step /= 2) lane = add(lane, __shfl_xor_sync(kAllLanes, lane, step));
    return lane;
}

// Of numbers. Every lane gets it.
__device__ __forceinline__ float largest_of_warp(float value) {
    for (int step = 16; step > 0; step /= 2) value = larger(value, __shfl_xor_sync(kAllLanes, value, step));
    return value;
}

}  // namespace moestro::kernels::cuda
