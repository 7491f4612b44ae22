// What happened when: a ring of the latest events of a runtime, for pictures and for finding what a run waits for.
// Recording is off until somebody asks for room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace moestro {

// Who was busy.
// Computing threads; reads of experts; reads of streamed units; copies to a device; what it computes.
enum class Lane : std::uint8_t { cpu, ssd, stream, link, device };
enum class Activity : std::uint8_t { step, attention, mlp, route, experts, head, stall, read };

constexpr std::string_view name(Lane lane) {
    constexpr std::string_view names[] = {"cpu", "ssd", "stream", "link", "device"};
    return names[static_cast<std::size_t>(lane)];
}
constexpr std::string_view name(Activity activity) {
    constexpr std::string_view names[] = {"step", "attention", "mlp", "route", "experts", "head", "stall", "read"};
    return names[static_cast<std::size_t>(activity)];
}

struct TraceEvent {
    Lane lane = Lane::cpu;
    Activity activity = Activity::step;
    std::int32_t layer = -1, item = -1;  // item: an expert, or a streamed unit
    std::int32_t count = 0;              // rows of a step, experts computed together
    std::uint64_t bytes = 0;             // read
    Nanos submitted = 0;                 // when it could have begun
    Nanos started = 0, done = 0;
};

// Any thread.
class TraceRing {
  public:
    explicit TraceRing(std::size_t capacity) : capacity_(capacity) { events_.reserve(capacity); }

    bool on() const { return capacity_ > 0; }
    void add(const TraceEvent& event) {
        if (!on()) return;
        std::lock_guard lock(mutex_);
        if (events_.size() < capacity_)
            events_.push_back(event);
        else
            events_[static_cast<std::size_t>(added_ % capacity_)] = event;
        ++added_;
    }
    // Takes the events, in the order in which they were added. `lost`: older ones that had no room.
    std::vector<TraceEvent> take(std::uint64_t& lost) {
        std::lock_guard lock(mutex_);
        const std::size_t first = added_ > events_.size() ? static_cast<std::size_t>(added_ % capacity_) : 0;
        std::vector<TraceEvent> taken(events_.begin() + static_cast<std::ptrdiff_t>(first), events_.end());
        taken.insert(taken.end(), events_.begin(), events_.begin() + static_cast<std::ptrdiff_t>(first));
        lost = added_ - taken.size();
        events_.clear();
        added_ = 0;
        return taken;
    }

  private:
    const std::size_t capacity_;
    std::mutex mutex_;  // guards what follows
    std::vector<TraceEvent> events_;
    std::uint64_t added_ = 0;
};

// Reads of one lane as if it served them one after the other: what they waited behind others, and its own time.
struct LaneTimes {
    Nanos queued = 0;  // from being asked for to being the lane's next, over all reads
    Nanos last = 0;

    // Returns when the lane turned to it.
    Nanos done(Nanos submitted, Nanos now) {
        const Nanos started = last > submitted ? last : submitted;
        queued += started - submitted;
        last = now;
        return started;
    }
};

}  // namespace moestro
