// Where a record is, and the only ways from one place to another.
#pragma once

#include <cstdint>
#include <string_view>

namespace moestro::residency {

enum class State : std::uint8_t {
    absent,   // on SSD alone, no slot
    loading,  // owns a slot its bytes are being read into
    host,     // complete in its slot
    failed,   // could not be read: no slot; stays until the last pin that waited for it is gone
};

constexpr std::string_view name(State state) {
    switch (state) {
        case State::absent:
            return "absent";
        case State::loading:
            return "loading";
        case State::host:
            return "host";
        case State::failed:
            return "failed";
    }
    return "?";
}

// A device tier adds uploading and device, and their edges, here.
constexpr bool legal(State from, State to) {
    switch (from) {
        case State::absent:
            return to == State::loading;
        case State::loading:
            return to == State::host || to == State::failed || to == State::absent;
        case State::host:
            return to == State::absent;  // evicted
        case State::failed:
            return to == State::absent;  // nobody waits any more
    }
    return false;
}

constexpr bool has_slot(State state) {
    return state == State::loading || state == State::host;
}

}  // namespace moestro::residency
