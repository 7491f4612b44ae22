#include "device/device.h"

#include <algorithm>

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

}  // namespace moestro::device
