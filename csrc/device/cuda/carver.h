// Arrays in a piece of device memory, one behind the other.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/types.h"
#include "device/cuda/arena.h"
#include "kernels/cuda/launch.h"

namespace moestro::device::cuda {

// Each is aligned.
class Carver {
  public:
    explicit Carver(std::byte* begin) : at_(begin) {}
    template <class T>
    T* take(std::int64_t count) {
        auto* const taken = reinterpret_cast<T*>(at_);
        at_ += round_up(static_cast<std::size_t>(count) * sizeof(T), Arena::kAlignment);
        return taken;
    }
    kernels::cuda::Codes codes(std::int64_t rows, std::int64_t groups) {
        kernels::cuda::Codes made;
        made.codes = take<std::int8_t>(rows * groups * quant::kGroup);
        made.scales = take<float>(rows * groups);
        made.sums = take<std::int32_t>(rows * groups);
        return made;
    }
    // What codes() takes, but for alignment: no more than kAlignment for each of its three.
    static std::size_t codes_bytes(std::int64_t rows, std::int64_t groups) {
        return static_cast<std::size_t>(rows * groups) * (quant::kGroup + sizeof(float) + sizeof(std::int32_t));
    }

  private:
    std::byte* at_;
};

}  // namespace moestro::device::cuda
