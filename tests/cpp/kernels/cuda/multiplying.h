// What tests of the kernels that multiply share: memory of the device, a courier, matrices and rows that lie there.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <list>
#include <memory>
#include <vector>

#include "cuda_shim/shim.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/on_device.h"
#include "kernels/matrices.h"
#include "kernels/tables.h"

namespace moestro::testing {

// Memory of the device that lives as long as this.
class DeviceMemory {
  public:
    template <class T>
    T* room(std::size_t count) {
        void* at = nullptr;
        EXPECT_EQ(cudaMalloc(&at, std::max<std::size_t>(count, 1) * sizeof(T)), cudaSuccess);
        held_.emplace_back(at);
        return static_cast<T*>(at);
    }
    template <class T>
    T* copy(const T* data, std::size_t count) {
        T* const at = room<T>(count);
        EXPECT_EQ(cudaMemcpy(at, data, count * sizeof(T), cudaMemcpyDefault), cudaSuccess);
        return at;
    }
    template <class T>
    T* copy(const std::vector<T>& data) {
        return copy(data.data(), data.size());
    }
    template <class T>
    T* zeros(std::size_t count) {
        return copy(std::vector<T>(count));
    }
    kernels::Matrix copy(const kernels::Matrix& matrix) {
        const auto rows = static_cast<std::size_t>(matrix.spec.rows);
        return {copy(matrix.data, matrix.spec.bytes()), matrix.spec, matrix.bias ? copy(matrix.bias, rows) : nullptr};
    }

  private:
    struct Free {
        void operator()(void* at) const { cudaFree(at); }
    };
    std::vector<std::unique_ptr<void, Free>> held_;
};

template <class T>
std::vector<T> from_device(const T* data, std::size_t count) {
    std::vector<T> values(count);
    EXPECT_EQ(cudaMemcpy(values.data(), data, count * sizeof(T), cudaMemcpyDefault), cudaSuccess);
    return values;
}

// Keeps all that it was given.
class KeepingCourier final : public kernels::cuda::Courier {
  public:
    const void* send(const void* data, std::size_t bytes, kernels::cuda::Stream) override {
        if (refuses) return nullptr;
        return memory_.copy(static_cast<const std::byte*>(data), bytes);
    }
    bool refuses = false;

  private:
    DeviceMemory memory_;
};

// Rows as linears take them, quantised on the device.
struct DeviceRows {
    kernels::cuda::LinearInputs inputs;
    std::uint32_t* fault = nullptr;
};
inline kernels::cuda::Codes room_for_codes(DeviceMemory& memory, std::size_t rows, int cols) {
    const std::size_t groups = rows * static_cast<std::size_t>((cols + 31) / 32);
    return {memory.room<std::int8_t>(groups * 32), memory.room<float>(groups), memory.room<std::int32_t>(groups)};
}
inline DeviceRows device_rows(DeviceMemory& memory, const std::vector<float>& x, int rows, int cols) {
    DeviceRows made;
    made.fault = memory.zeros<std::uint32_t>(1);
    made.inputs = {memory.copy(x), room_for_codes(memory, static_cast<std::size_t>(rows), cols), cols};
    EXPECT_EQ(kernels::cuda::quantise(made.inputs.x, rows, cols, made.inputs.codes, made.fault, nullptr), cudaSuccess);
    return made;
}
inline kernels::cuda::Fault fault_of(const DeviceRows& rows) {
    return static_cast<kernels::cuda::Fault>(from_device(rows.fault, 1)[0]);
}

// Every way of running threads.

}  // namespace moestro::testing
