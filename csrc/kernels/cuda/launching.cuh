// Putting a kernel on a stream, and the fault it may leave.
#pragma once

#include <utility>

#include "kernels/cuda/hardware.cuh"
#include "kernels/cuda/launch.h"

namespace moestro::kernels::cuda {

// Arguments are converted to the kernel's parameters. `shared`: bytes of dynamic shared memory; what is beyond the
// 48 KiB that every kernel may have is asked for.
template <class... P, class... A>
Status launch(void (*kernel)(P...), dim3 grid, dim3 block, std::size_t shared, Stream stream, A&&... args) {
    if (shared > 47 << 10) {  // static shared memory counts too
        const auto wanted = static_cast<int>(shared);
        const cudaError_t refused = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                                                         cudaFuncAttributeMaxDynamicSharedMemorySize, wanted);
        if (refused != cudaSuccess) return refused;
    }
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...);
}

// The first fault stays.
__device__ __forceinline__ void leave_fault(std::uint32_t* fault, Fault what) {
    atomicCAS(fault, 0u, static_cast<std::uint32_t>(what));
}

}  // namespace moestro::kernels::cuda
