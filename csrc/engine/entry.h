// A call on a Runtime: one at a time, and what it changed is published when it ends. Private to csrc/engine.
#pragma once

#include "engine/runtime_state.h"

namespace moestro::engine {

template <class State>
class Entry {
  public:
    // Throws Error(usage) while another call is going on.
    explicit Entry(State& state) : state_(state) {
        require(!state.entered.exchange(true, std::memory_order_acquire), ErrorKind::usage,
                "another thread is using this runtime: calls of one runtime come one after the other");
    }
    ~Entry() {
        state_.publish();
        state_.entered.store(false, std::memory_order_release);
    }
    Entry(const Entry&) = delete;
    Entry& operator=(const Entry&) = delete;

  private:
    State& state_;
};

}  // namespace moestro::engine
