#include "exec/device_rows.h"

#include <cstring>
#include <utility>
#include <vector>

#include "base/types.h"

namespace moestro::exec {

DeviceRows::DeviceRows(std::shared_ptr<device::Device> device, std::function<bool(std::size_t)> make_room)
    : device_(std::move(device)), make_room_(std::move(make_room)), stream_(device_->make_stream()) {}

void DeviceRows::grow(device::Buffer& buffer, std::size_t bytes, bool on_device) {
    if (buffer.size() >= bytes) return;
    const std::size_t size = round_up(bytes, kPageBytes);
    const std::size_t before = round_up(buffer.size(), kPageBytes);
    buffer = {};  // before the larger one: never both
    if (on_device)
        require(make_room_(size - before), ErrorKind::budget, "device memory has no room for ", size,
                " bytes of rows: give more device_memory, or a smaller prefill chunk");
    buffer = on_device ? device_->allocate(size) : device_->allocate_host(size);
}

void DeviceRows::begin(const float* x, const float* x_there, int rows, std::size_t outputs, int hidden) {
    const std::size_t row_bytes = static_cast<std::size_t>(hidden) * sizeof(float);
    const std::size_t x_bytes = static_cast<std::size_t>(rows) * row_bytes, y_bytes = outputs * row_bytes;
    rows_ = rows;
    hidden_ = hidden;
    x_there_ = x_there;
    grow(y_, y_bytes, false);
    if (x_there) return grow(device_y_, y_bytes, true);
    grow(x_, x_bytes, false);
    std::memcpy(x_.data(), x, x_bytes);
    if (x_.pinned() && y_.pinned()) return;
    grow(device_x_, x_bytes, true);
    grow(device_y_, y_bytes, true);
    stream_->copy(device_x_.data(), x_.data(), x_bytes, 0);
}

void DeviceRows::reserve(std::size_t outputs, int hidden) {
    const std::size_t bytes = outputs * static_cast<std::size_t>(hidden) * sizeof(float);
    grow(y_, bytes, false);
    grow(device_y_, bytes, true);
}

device::Event DeviceRows::run(std::span<kernels::ExpertJob> jobs, bool integer, const device::Event& after,
                              Nanos takes) {
    stream_->wait(after);
    const bool copied = !x_there_ && device_x_.data() != nullptr;
    const float* x = x_there_ ? x_there_ : reinterpret_cast<const float*>(copied ? device_x_.data() : x_.data());
    std::vector<float*> places;
    for (kernels::ExpertJob& job : jobs) {
        places.push_back(job.y);
        if (copied || x_there_) job.y = reinterpret_cast<float*>(device_y_.data()) + (job.y - outputs());
    }
    device::Event computed = stream_->experts({jobs, x, rows_, hidden_, integer}, takes);
    if (!copied) return computed;
    std::vector<device::Event> events{std::move(computed)};
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        const std::size_t bytes = jobs[i].rows.size() * static_cast<std::size_t>(hidden_) * sizeof(float);
        auto* const from = reinterpret_cast<const std::byte*>(jobs[i].y);
        events.push_back(stream_->copy(reinterpret_cast<std::byte*>(places[i]), from, bytes, 0));
    }
    return device::all(std::move(events));
}

std::string DeviceRows::refusal() const {
    if (!device_x_.data()) return {};
    return "pinned host memory: the system refused it, so rows are copied to and from the device";
}

}  // namespace moestro::exec
