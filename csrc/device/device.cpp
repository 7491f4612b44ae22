#include "device/device.h"

#include <algorithm>
#include <cstring>

namespace moestro::device {

namespace {

class All final : public Event::State {
  public:
    explicit All(std::vector<Event> events) : events_(std::move(events)) {}
    bool over() override {
        return std::all_of(events_.begin(), events_.end(), [](const Event& event) { return event.over(); });
    }
    void wait() override {
        for (const Event& event : events_)
            if (event.state()) event.state()->wait();
    }
    void check() override {
        for (const Event& event : events_) event.check();
    }

    std::span<const Event> parts() const override { return events_; }

  private:
    const std::vector<Event> events_;
};

}  // namespace

Event all(std::vector<Event> events) {
    return Event(std::make_shared<All>(std::move(events)));
}

Buffer upload(Device& device, std::span<const std::byte> bytes) {
    Buffer there = device.allocate(bytes.size());
    const Buffer here = device.allocate_host(bytes.size());
    std::memcpy(here.data(), bytes.data(), bytes.size());
    device.make_stream()->copy(there.data(), here.data(), bytes.size(), 0).wait();
    return there;
}

}  // namespace moestro::device
