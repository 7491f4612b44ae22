#include "policy/hybrid.h"

#include <algorithm>
#include <array>

#include "policy/first_finish.h"
#include "policy/greedy_01.h"
#include "policy/lane_prices.h"
#include "policy/ranked_work.h"
#include "policy/side_search.h"

namespace moestro::policy {

namespace {

class Hybrid final : public Planner {
  public:
    std::string_view name() const override { return "hybrid"; }

    void plan(const LayerWork& work, LayerPlan& plan) override {
        ranked_.set(work);
        for (Seed& seed : seeds_) reset(seed.sides);
        if (work.costs.has_device) search(work);
        ranked_.orders(seeds_.front().sides, orders_);
        timeline_.run(work, orders_, plan);
    }

  private:
    struct Seed {
        Sides sides;
        double makespan = 0;
    };

    // Everything on the CPU; what is in host memory goes over the link before what must be read.
    void reset(Sides& sides) const {
        sides.on_cpu.assign(static_cast<std::size_t>(ranked_.count()), 1);
        sides.link.clear();
        for (int rank = ranked_.hosts(); rank < ranked_.count(); ++rank) sides.link.push_back(rank);
    }

    // HybriMoE's schedule is the first of several beginnings, and is kept where no other is better.
    void search(const LayerWork& work) {
        search_.start(ranked_);
        first_finish_.run(ranked_, seeds_[0].sides);
        seeds_[0].makespan = search_.move(seeds_[0].sides);
        if (search_.over()) return;
        greedy_01(work, seeds_[1].sides);
        lane_prices_.run(ranked_, seeds_[2].sides);
        for (Seed* seed : {&seeds_[1], &seeds_[2]}) seed->makespan = search_.move(seed->sides);
        best_first();
        for (Seed& seed : seeds_) seed.makespan = search_.swap(seed.sides);
        best_first();
        search_.exchange(seeds_.front().sides);
    }
    void greedy_01(const LayerWork& work, Sides& sides) {
        greedy_01_.choose(work, listed_);
        for (int rank = 0; rank < ranked_.count(); ++rank)
            sides.on_cpu[static_cast<std::size_t>(rank)] =
                listed_[static_cast<std::size_t>(ranked_.item(rank))] == Side::cpu;
    }
    void best_first() {
        const auto sooner = [](const Seed& one, const Seed& other) { return one.makespan < other.makespan; };
        std::iter_swap(seeds_.begin(), std::min_element(seeds_.begin(), seeds_.end(), sooner));
    }

    RankedWork ranked_;
    FirstFinish first_finish_;
    Greedy01Sides greedy_01_;
    LanePrices lane_prices_;
    SideSearch search_;
    std::array<Seed, 3> seeds_;
    std::vector<Side> listed_;  // by item
    LaneOrders orders_;
    Timeline timeline_;
};

}  // namespace

std::unique_ptr<Planner> make_hybrid() {
    return std::make_unique<Hybrid>();
}

}  // namespace moestro::policy
