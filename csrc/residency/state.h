// Where a record is, and the only ways from one place to another: in one tier's cache, and through the tiers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moestro::residency {

// In the cache of one tier.
enum class State : std::uint8_t {
    absent,    // no slot
    loading,   // owns a slot that its bytes are on their way to
    resident,  // complete in its slot
    failed,    // could not be had: no slot; stays until the last pin that waited for it is gone
};

constexpr std::string_view name(State state) {
    switch (state) {
        case State::absent:
            return "absent";
        case State::loading:
            return "loading";
        case State::resident:
            return "resident";
        case State::failed:
            return "failed";
    }
    return "?";
}

constexpr bool legal(State from, State to) {
    switch (from) {
        case State::absent:
            return to == State::loading;
        case State::loading:
            return to == State::resident || to == State::failed || to == State::absent;
        case State::resident:
            return to == State::absent;  // evicted
        case State::failed:
            return to == State::absent;  // nobody waits any more
    }
    return false;
}

constexpr bool has_slot(State state) {
    return state == State::loading || state == State::resident;
}

// Through the tiers: the farthest that it has come. What failed is absent.
enum class Place : std::uint8_t { absent, loading, host, uploading, device };

constexpr std::string_view name(Place place) {
    constexpr std::string_view names[] = {"absent", "loading", "host", "uploading", "device"};
    return names[static_cast<std::size_t>(place)];
}

// uploading: the device's slot is taken; its bytes may still be on their way to the host.
constexpr Place place(State host, State device) {
    if (device == State::resident) return Place::device;
    if (device == State::loading) return Place::uploading;
    if (host == State::resident) return Place::host;
    return host == State::loading ? Place::loading : Place::absent;
}

// host_copy: the record is complete in host memory too (inclusive copies), or still on its way there.
constexpr bool legal(Place from, Place to, bool host_copy) {
    switch (from) {
        case Place::absent:
            return to == Place::loading || to == Place::uploading;
        case Place::loading:
            return to == Place::host || to == Place::uploading || to == Place::absent;
        case Place::host:
            return to == Place::absent || to == Place::uploading;
        case Place::uploading:  // and where the copy failed, what was there before
            return to == Place::device || to == (host_copy ? Place::host : Place::absent) || to == Place::loading;
        case Place::device:  // evicted: nothing is copied back
            return to == (host_copy ? Place::host : Place::absent) || to == Place::loading;
    }
    return false;
}

}  // namespace moestro::residency
