// NVIDIA GPUs, where moestro was built with CUDA. What runs there has the bits of the processor's kernels.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"

namespace moestro::device {

struct CudaOptions {
    int ordinal = 0;
    std::size_t memory = 0;                    // bytes: taken at once, and all buffers come from it
    std::size_t work = std::size_t{64} << 20;  // bytes besides, for what launches need themselves: less is slower
};

// Throws Error(unsupported) saying what is missing, Error(budget) naming what was asked for and what is free.
std::shared_ptr<Device> make_cuda(const CudaOptions& options);

struct CudaDevice {
    std::string name;
    int major = 0, minor = 0;  // compute capability
    int multiprocessors = 0;
    bool integrated = false;          // its memory is the host's
    std::string bus;                  // where it is on PCIe, as nvidia-smi names it
    std::size_t total = 0, free = 0;  // bytes of memory; free: of all processes, when what CUDA itself takes is taken
    std::string missing;              // why it cannot be used, in a sentence; empty: it can
};

struct CudaInfo {
    bool built = false;           // with CUDA
    int driver = 0, runtime = 0;  // the newest CUDA of the driver and that of this build: 1000 * major + 10 * minor
    std::vector<CudaDevice> devices;
    std::string missing;  // why none can be used, in a sentence; empty: one can
};

// Makes CUDA take its part of every device's memory, once.
CudaInfo cuda_info() noexcept;

}  // namespace moestro::device
