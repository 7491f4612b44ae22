// Kernels of csrc/kernels/cuda over the CUDA of tests/cpp/cuda_shim.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "cuda_shim/shim.h"
#include "kernels/cuda/launch.h"

namespace moestro::testing {

// An array in the device's memory.
template <class T>
class OnDevice {
  public:
    explicit OnDevice(std::size_t count) : count_(count) {
        if (count > 0) expect_done(cudaMalloc(&data_, bytes()));
    }
    explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) { write(values); }
    ~OnDevice() { cudaFree(data_); }
    OnDevice(OnDevice&& other) noexcept : data_(std::exchange(other.data_, nullptr)), count_(other.count_) {}
    OnDevice& operator=(OnDevice&&) = delete;

    T* data() const { return data_; }
    void write(const std::vector<T>& values) const {
        if (count_ > 0) expect_done(cudaMemcpy(data_, values.data(), bytes(), cudaMemcpyDefault));
    }
    // When all that was launched is over.
    std::vector<T> read() const {
        std::vector<T> values(count_);
        expect_done(cudaDeviceSynchronize());
        if (count_ > 0) expect_done(cudaMemcpy(values.data(), data_, bytes(), cudaMemcpyDefault));
        return values;
    }

  private:
    std::size_t bytes() const { return count_ * sizeof(T); }
    static void expect_done(cudaError_t status) { EXPECT_EQ(status, cudaSuccess); }

    T* data_ = nullptr;
    std::size_t count_;
};

// Where kernels leave faults; none at first.
class FaultWord {
  public:
    std::uint32_t* data() const { return word_.data(); }
    kernels::cuda::Fault read() const { return static_cast<kernels::cuda::Fault>(word_.read()[0]); }

  private:
    OnDevice<std::uint32_t> word_{std::vector<std::uint32_t>{0}};
};

// Under a sanitizer kernels are ten times slower.
#ifdef __SANITIZE_ADDRESS__
inline constexpr bool kSlow = true;
inline constexpr cuda_shim::Order kOrders[] = {cuda_shim::Order::random};
#else
inline constexpr bool kSlow = false;
inline constexpr cuda_shim::Order kOrders[] = {cuda_shim::Order::forward, cuda_shim::Order::reverse,
                                               cuda_shim::Order::random};
#endif

// Calls body() for several orders in which threads may run.
template <class Body>
void in_every_order(const Body& body) {
    using cuda_shim::Order;
    for (const Order order : kOrders) {
        SCOPED_TRACE("order " + std::to_string(static_cast<int>(order)));
        cuda_shim::set_order(order, 7);
        body();
        if (::testing::Test::HasFatalFailure()) break;
    }
    cuda_shim::set_order(Order::forward);
}

}  // namespace moestro::testing
