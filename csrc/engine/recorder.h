// Records what routers chose and thought, step by step, for as many rows as somebody asked for.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "engine/step_log.h"
#include "policy/routing_record.h"
#include "store/catalog.h"

namespace moestro::engine {

// What routers chose, and by how much they were foreseen wrongly: offset[target position][distance - 1] is, by expert,
// the mean of the router's logits less those it made of the input of the router `distance` layers before. Added to such
// logits it corrects what the residual stream gains on the way (DALI, 2602.03495, adds the mean to the input instead,
// which a linear router cannot tell from this).
struct Recorded {
    policy::RoutingRecord routing;
    std::vector<std::vector<std::vector<float>>> offsets;
    std::uint64_t rows_lost = 0;  // of steps that had no room
};

// One thread at a time.
class Recorder {
  public:
    Recorder(int rows, int ahead) : rows_(rows), ahead_(ahead) {}

    bool on() const { return rows_ > 0; }
    int ahead() const { return ahead_; }  // of how many next layers' routers it wants to know

    void begin_step() { foreseen_.clear(); }
    // Both in the order of the step's rows, in one or several calls.
    void foreseen(std::size_t target, int distance, const float* logits, std::size_t count);
    void routed(std::size_t position, const float* logits, int rows, int experts);
    void end_step(const StepLog& log, const store::Catalog& catalog, const policy::RoutingRecord::Step& step,
                  std::span<const std::uint8_t> accepted);

    // Takes what there is; it begins anew.
    Recorded take(const store::Catalog& catalog);

    // Of so many rows in `layers` layers with experts.
    static std::size_t bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers, std::int64_t ahead);

  private:
    struct Difference {
        std::vector<double> sum;  // by expert
        std::int64_t rows = 0;
    };
    struct Foreseen {               // in this step
        std::vector<float> logits;  // of the rows so far
        std::size_t met = 0;        // how many of them were compared
    };
    using Place = std::pair<std::size_t, int>;  // target, distance

    const int rows_, ahead_;
    policy::RoutingRecord record_;
    std::map<Place, Foreseen> foreseen_;
    std::map<Place, Difference> differences_;
    std::uint64_t lost_ = 0;
};

}  // namespace moestro::engine
