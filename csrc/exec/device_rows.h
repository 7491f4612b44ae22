// The rows that a device reads and the outputs it writes: in host memory that it reaches, or, where none can be pinned,
// copied to and fro.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "base/error.h"
#include "device/device.h"

namespace moestro::exec {

// One thread at a time; grows to the largest call and keeps its memory.
class DeviceRows {
  public:
    // make_room: gives up so many bytes of device memory, and says whether it could; asked where host memory cannot be
    // pinned.
    DeviceRows(std::shared_ptr<device::Device> device, std::function<bool(std::size_t)> make_room);

    // For rows of x [rows, hidden] and so many outputs of `hidden` floats. x_there: the same rows, where the device has
    // them already and wants the outputs; null: rows and outputs are of the host. REQUIRES that nothing is under way.
    // Throws Error(budget).
    void begin(const float* x, const float* x_there, int rows, std::size_t outputs, int hidden);
    // Takes memory for so many outputs of rows that are there now, before others have it.
    void reserve(std::size_t outputs, int hidden);
    // Computes experts, not before `after`; a job's y is a place of outputs(), and its result is at made(y) when the
    // event is over.
    device::Event run(std::span<kernels::ExpertJob> jobs, bool integer, const device::Event& after, Nanos takes);
    float* outputs() const { return reinterpret_cast<float*>(y_.data()); }  // of the host
    const float* made(const float* y) const {
        return x_there_ ? reinterpret_cast<const float*>(device_y_.data()) + (y - outputs()) : y;
    }
    bool reached() const { return y_.pinned(); }  // outputs(), by the device

    // Why rows are copied; empty where they are not, or nothing was run.
    std::string refusal() const;

  private:
    void grow(device::Buffer& buffer, std::size_t bytes, bool on_device);

    const std::shared_ptr<device::Device> device_;
    const std::function<bool(std::size_t)> make_room_;
    device::Buffer x_, y_;                // of the host
    device::Buffer device_x_, device_y_;  // where those are not pinned
    const std::unique_ptr<device::Stream> stream_;
    const float* x_there_ = nullptr;
    int rows_ = 0, hidden_ = 0;
};

}  // namespace moestro::exec
