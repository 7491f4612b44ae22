// A local search over who computes what: from a choice to better ones by small changes, for as long as the layer is
// done sooner and a fixed effort lasts.
#pragma once

#include <vector>

#include "policy/ranked_work.h"

namespace moestro::policy {

// One thread at a time; keeps scratch between calls. Deterministic: changes are tried by rank, and the first that is
// better is kept.
class SideSearch {
  public:
    // A layer with a device, which stays until the next call: the effort is whole again.
    void start(RankedWork& work);

    // Each improves `sides` until nothing that it tries is better, and returns the makespan.
    //   move      one expert to the other side
    //   swap      also two at a time, or one that is read is sent before what is in host memory
    //   exchange  also one, and then others for as long as that helps: one large for several small
    double move(Sides& sides);
    double swap(Sides& sides);
    double exchange(Sides& sides);

    // Nothing more can be found for what was improved last.
    bool over() const { return effort_ <= 0 || now_.makespan() * kGain <= work_->least(); }

  private:
    static constexpr double kGain = 1 - 1e-9;  // less than a rounding error is no gain

    void begin(Sides& sides);
    bool move_any(int but = -1);
    bool swap_any();
    bool send_sooner_any();
    bool send_sooner(std::size_t position);
    bool exchange_any();

    bool on_cpu(int rank) const { return sides_->on_cpu[static_cast<std::size_t>(rank)]; }
    void flip(int rank) { sides_->on_cpu[static_cast<std::size_t>(rank)] ^= 1; }
    bool repeats(int rank) const;
    Load changed(const Load& load, int rank) const;
    bool promises(const Load& load);
    Finish look();
    bool better();

    RankedWork* work_ = nullptr;
    Sides* sides_ = nullptr;
    Finish now_;      // of *sides_
    int effort_ = 0;  // that is left
    std::vector<char> before_;
};

}  // namespace moestro::policy
