// What several lanes do at the same time, on a virtual clock: a discrete-event executor. Every operation takes the time
// that it is said to take, and its body runs when it is over, one after the other, in the caller's thread. So what
// happens, and when, is the same on every machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace moestro {

// One thread at a time; the clock may be read by others. Bodies must not throw; they may submit.
class VirtualLanes {
  public:
    using Operation = std::uint64_t;  // 0 stands for one that is over

    explicit VirtualLanes(int lanes);

    const std::shared_ptr<VirtualClock>& clock() const { return clock_; }
    Nanos now() const { return clock_->now(); }

    // A lane takes up what it is given in the order of submission, each when it is free and all of `after` are over.
    Operation submit(int lane, Nanos takes, std::span<const Operation> after, std::function<void()> body);
    bool over(Operation operation) const { return !pending_.contains(operation); }

    // The caller works for so long: what ends meanwhile ends. Of equal ends what was submitted first goes first.
    void advance(Nanos by);
    // Turns the clock to the next end; false where nothing is under way.
    bool step();
    void finish(Operation operation);

  private:
    void end_next();

    const std::shared_ptr<VirtualClock> clock_;
    std::vector<Nanos> free_;  // by lane: when it has done what it was given
    Operation last_ = 0;
    std::set<std::pair<Nanos, Operation>> queue_;  // by end, then submission
    struct Pending {
        Nanos end = 0;
        std::function<void()> body;
    };
    std::unordered_map<Operation, Pending> pending_;
};

}  // namespace moestro
