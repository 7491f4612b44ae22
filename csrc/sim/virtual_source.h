// Records that arrive on a virtual clock: one link that serves one record after the other.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "store/record_source.h"

namespace moestro::sim {

// wait() turns the clock to the next arrival; somebody else turns it otherwise. Writes nothing anywhere.
class VirtualSource final : public store::RecordSource {
  public:
    // took: how long the link needs for a record, by its number. Borrows the clock.
    VirtualSource(VirtualClock& clock, std::vector<Nanos> took, std::vector<std::size_t> bytes);

    void start(int number, std::byte* slot, bool urgent) override;
    void flush() override {}
    void poll(std::vector<store::Arrival>& out) override;
    void wait(std::vector<store::Arrival>& out) override;
    std::size_t in_flight() const override { return queue_.size() + (serving_ ? 1 : 0); }
    store::SourceCounters counters() const override { return counters_; }

    Nanos busy() const { return busy_; }  // of what was handed over
    // How long until the link has served all that somebody waits for now.
    Nanos backlog() const;

  private:
    struct Wanted {
        int number = 0;
        bool urgent = false;
        Nanos asked = 0;
    };
    struct Serving {
        int number = 0;
        Nanos until = 0;
    };
    Nanos took(int number) const { return took_[static_cast<std::size_t>(number)]; }
    void serve_next();

    VirtualClock& clock_;
    const std::vector<Nanos> took_;
    const std::vector<std::size_t> bytes_;
    std::deque<Wanted> queue_;  // in the order of being asked for
    std::optional<Serving> serving_;
    Nanos free_ = 0, busy_ = 0;
    store::SourceCounters counters_;
};

}  // namespace moestro::sim
