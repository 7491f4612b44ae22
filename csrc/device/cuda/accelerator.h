#pragma once

#include <memory>

#include "device/cuda/world.h"
#include "kernels/accelerator.h"

namespace moestro::device::cuda {

// All operations of a decoder step, on a stream of their own.
std::shared_ptr<kernels::Accelerator> make_accelerator(std::shared_ptr<World> world);

}  // namespace moestro::device::cuda
