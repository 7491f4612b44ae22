// A reader whose completions come when and in what order a test says: everything is read at once when it is submitted,
// and handed over one by one.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <deque>
#include <functional>
#include <random>

#include "base/error.h"
#include "io/reader.h"

namespace moestro::testing {

class ScriptedReader final : public io::Reader {
  public:
    enum class Order { first_in, last_in, shuffled };

    explicit ScriptedReader(Order order = Order::first_in, unsigned seed = 1) : order_(order), random_(seed) {}

    std::function<void()> before_wait;  // called at the beginning of every wait()
    std::size_t per_poll = 0;           // completions that a poll returns
    std::size_t per_wait = 1;
    std::uint64_t submitted = 0;
    std::size_t most_in_flight = 0;

    void submit(std::span<const io::ReadRequest> requests) override {
        for (const io::ReadRequest& request : requests) {
            const ssize_t got = ::pread(request.file->descriptor(), request.destination.data(),
                                        request.destination.size(), static_cast<off_t>(request.offset));
            done_.push_back({request.tag, got < 0 ? 0 : static_cast<std::size_t>(got), got < 0 ? errno : 0});
        }
        submitted += requests.size();
        most_in_flight = std::max(most_in_flight, done_.size());
    }
    void poll(std::vector<io::Completion>& out) override { deliver(out, per_poll); }
    void wait(std::vector<io::Completion>& out) override {
        MOESTRO_CHECK(!done_.empty());
        if (before_wait) before_wait();
        deliver(out, per_wait);
    }
    std::size_t in_flight() const override { return done_.size(); }
    std::size_t cancel(std::uint64_t) override { return 0; }
    io::ReaderInfo info() const override { return {.engine = "scripted", .depth = 1 << 20, .refused = {}}; }

  private:
    void deliver(std::vector<io::Completion>& out, std::size_t count) {
        for (; count > 0 && !done_.empty(); --count) {
            const std::size_t at = order_ == Order::first_in  ? 0
                                   : order_ == Order::last_in ? done_.size() - 1
                                                              : random_() % done_.size();
            out.push_back(done_[at]);
            done_.erase(done_.begin() + static_cast<std::ptrdiff_t>(at));
        }
    }

    const Order order_;
    std::mt19937 random_;
    std::deque<io::Completion> done_;
};

}  // namespace moestro::testing
