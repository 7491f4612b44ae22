#include "exec/schedule_trial.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

namespace moestro::exec {

namespace {

constexpr int kRounds = 3;
constexpr int kSteps = 4;  // of a turn; the first shows what the one before left in the caches, and is not counted
constexpr int kMostRows = 8;

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

}  // namespace

ScheduleTrial::ScheduleTrial() : candidates_{{"hybrid", {}}, {"static", {}}, {"on_demand", {}}, {"cpu", {}}} {}

bool ScheduleTrial::step(int rows, Nanos took) {
    if (over() || rows < 1 || rows > kMostRows) return false;
    if (in_turn_ > 0) candidates_[at(turn_)].taken.push_back(static_cast<double>(took) / rows);
    if (++in_turn_ < kSteps) return false;
    in_turn_ = 0;
    const std::string_view before = current();
    turn_ = (turn_ + 1) % static_cast<int>(candidates_.size());
    if (turn_ == 0 && ++rounds_ == kRounds) choose();
    return current() != before;
}

void ScheduleTrial::choose() {
    const auto sooner = [](const Candidate& one, const Candidate& other) {
        return median(one.taken) < median(other.taken);
    };
    best_ = static_cast<int>(std::min_element(candidates_.begin(), candidates_.end(), sooner) - candidates_.begin());
}

std::string ScheduleTrial::summary() const {
    std::ostringstream out;
    out << std::fixed << std::setprecision(3) << "auto: ";
    if (!over()) {
        out << "trying " << current() << ", round " << rounds_ + 1 << " of " << kRounds;
        return out.str();
    }
    const auto milliseconds = [](const Candidate& one) { return median(one.taken) / 1e6; };
    out << current() << ", " << milliseconds(candidates_[at(best_)]) << " ms a token (";
    bool first = true;
    for (const Candidate& one : candidates_) {
        if (one.name == current()) continue;
        out << (first ? "" : ", ") << one.name << " " << milliseconds(one);
        first = false;
    }
    out << ")";
    return out.str();
}

}  // namespace moestro::exec
