// Records that arrive, or fail, when and in what order a test says. A record's bytes say whose they are.
#pragma once

#include <algorithm>
#include <cstring>
#include <random>
#include <set>
#include <vector>

#include "base/error.h"
#include "store/record_source.h"

namespace moestro::testing {

class FakeSource final : public store::RecordSource {
  public:
    enum class Order { first_in, last_in, shuffled };

    explicit FakeSource(Order order = Order::first_in, unsigned seed = 1) : order_(order), random_(seed) {}

    bool writes = true;        // false: slots have no memory
    std::size_t per_poll = 0;  // records that a poll delivers
    int failures_in_ten = 0;
    std::vector<int> started;  // since the beginning, in order
    std::set<int> urgent;      // in flight

    static int owner(const std::byte* record) {
        int number;
        std::memcpy(&number, record, sizeof number);
        return number;
    }

    bool flying(int number) const {
        return std::any_of(flying_.begin(), flying_.end(), [&](const Flying& one) { return one.number == number; });
    }

    void start(int number, std::byte* slot, bool is_urgent) override {
        MOESTRO_CHECK(!flying(number));
        flying_.push_back({number, slot});
        started.push_back(number);
        if (is_urgent) urgent.insert(number);
    }
    void flush() override {}
    void poll(std::vector<store::Arrival>& out) override {
        for (std::size_t i = 0; i < per_poll && !flying_.empty(); ++i) deliver(out, next());
    }
    void wait(std::vector<store::Arrival>& out) override {
        MOESTRO_CHECK(!flying_.empty());
        if (!chosen_.empty()) {
            for (const int number : std::exchange(chosen_, {})) deliver(out, find(number));
        } else {
            deliver(out, next());
        }
    }
    std::size_t in_flight() const override { return flying_.size(); }
    store::SourceCounters counters() const override { return {}; }

    // The next wait() delivers these.
    void deliver_next(std::vector<int> numbers) { chosen_ = std::move(numbers); }

  private:
    struct Flying {
        int number;
        std::byte* slot;
    };
    std::size_t next() {
        return order_ == Order::first_in  ? 0
               : order_ == Order::last_in ? flying_.size() - 1
                                          : random_() % flying_.size();
    }
    std::size_t find(int number) const {
        const auto at =
            std::find_if(flying_.begin(), flying_.end(), [&](const Flying& one) { return one.number == number; });
        MOESTRO_CHECK(at != flying_.end());
        return static_cast<std::size_t>(at - flying_.begin());
    }
    void deliver(std::vector<store::Arrival>& out, std::size_t at) {
        const Flying one = flying_[at];
        flying_.erase(flying_.begin() + static_cast<std::ptrdiff_t>(at));
        urgent.erase(one.number);
        if (writes) std::memcpy(one.slot, &one.number, sizeof one.number);
        out.push_back({one.number, {}});
        if (static_cast<int>(random_() % 10) < failures_in_ten)
            out.back().error = Error(ErrorKind::io, text("no record ", one.number));
    }

    const Order order_;
    std::mt19937 random_;
    std::vector<Flying> flying_;
    std::vector<int> chosen_;
};

}  // namespace moestro::testing
