// Records through the tiers: SSD, host memory, device memory.
#pragma once

#include <memory>
#include <string_view>

#include "base/virtual_lanes.h"
#include "device/device.h"
#include "residency/expert_cache.h"
#include "residency/link_source.h"
#include "residency/state.h"

namespace moestro::residency {

// Whether records that the device has keep their place in host memory as long as others. Exclusive: there they make
// room first, and on the device those that the host has too, so that both memories together hold as many as they can.
// Nothing is ever copied back, since weights do not change.
enum class Copies : std::uint8_t { inclusive, exclusive };
Copies parse_copies(std::string_view name);  // throws Error(usage) for another name

// What a device adds to a host's cache. Its cache reads through `link`, which that cache owns.
struct DeviceTier {
    std::shared_ptr<device::Device> device;
    ExpertCache* cache = nullptr;
    LinkSource* link = nullptr;
    Copies copies = Copies::inclusive;
};

// Borrows both caches. One thread at a time.
class Tiers {
  public:
    // lanes: those of a virtual clock, on which all waiting is done; null where time is real.
    // Tells both caches what to give up first.
    explicit Tiers(ExpertCache& host, DeviceTier device = {}, std::shared_ptr<VirtualLanes> lanes = nullptr);

    ExpertCache& host() const { return host_; }
    bool has_device() const { return device_.cache != nullptr; }
    ExpertCache& device() const { return *device_.cache; }  // REQUIRES has_device()

    Place place(ExpertId id) const;
    bool host_copy(ExpertId id) const { return host_.state(id) == State::resident; }

    LinkSource& link() const { return *device_.link; }  // REQUIRES has_device()

    // Whether a copy to the device makes it give up what must be read again one day: exclusive copies, when it is full.
    bool sending_loses(const store::ExpertTable& table) const;

    // Takes in what has arrived anywhere.
    void poll() const;
    // Blocks until something that is under way has ended: a read, a copy, or what a device computes. False where
    // nothing is.
    bool wait() const;
    // The processor computed, on a virtual clock for so long.
    void computed(double nanoseconds) const {
        if (lanes_) lanes_->advance(static_cast<Nanos>(nanoseconds));
    }

    // Throws Error(internal) where a cache contradicts itself or the other.
    void check_integrity() const;

  private:
    ExpertCache& host_;
    const DeviceTier device_;
    const std::shared_ptr<VirtualLanes> lanes_;
};

}  // namespace moestro::residency
