// Experts on a stream, in memory for what is under way that only grows.
#pragma once

#include "device/cuda/courier.h"
#include "device/cuda/world.h"

namespace moestro::device::cuda {

class Experts {
  public:
    Experts(World& world, Courier& courier, cudaStream_t stream) : world_(world), courier_(courier), stream_(stream) {}

    // fault: of the device, where kernels leave theirs. Where there is little memory for what is under way, some rows
    // are computed after the others: no result depends on it. Throws Error(budget) where there is none for one row.
    void run(const ExpertsLaunch& launch, std::uint32_t* fault);

  private:
    void make_scratch(std::size_t least, std::size_t wanted);
    std::uint32_t* marks(std::size_t count);

    World& world_;
    Courier& courier_;
    const cudaStream_t stream_;
    std::size_t tried_ = 0;  // the most scratch that was asked for
    Buffer scratch_, marks_;
};

}  // namespace moestro::device::cuda
