#pragma once

#include "device/cuda/courier.h"
#include "device/cuda/world.h"

namespace moestro::device::cuda {

std::unique_ptr<Stream> make_stream(std::shared_ptr<World> world);

}  // namespace moestro::device::cuda
