// Finds out which planner serves a run best by letting each plan a few steps: end to end, on what the run really does.
// The answers are the same under all of them, so nothing is lost but a little time.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace moestro::exec {

// A function of what it is told.
class ScheduleTrial {
  public:
    ScheduleTrial();

    // Who plans the next step.
    std::string_view current() const { return candidates_[best_ >= 0 ? at(best_) : at(turn_)].name; }
    // A step of so many rows took so long under current(). True when another plans the next one. Steps of many rows
    // (prefill) say nothing about the others, and count for nothing.
    bool step(int rows, Nanos took);
    bool over() const { return best_ >= 0; }
    // "auto: hybrid, 1.200 ms a token (static 1.900, on_demand 2.500, cpu 3.100)", or what is being tried.
    std::string summary() const;

  private:
    struct Candidate {
        std::string_view name;
        std::vector<double> taken;  // nanoseconds per token
    };
    static std::size_t at(int number) { return static_cast<std::size_t>(number); }
    void choose();

    std::vector<Candidate> candidates_;
    int turn_ = 0, in_turn_ = 0, rounds_ = 0;
    int best_ = -1;  // none yet
};

}  // namespace moestro::exec
