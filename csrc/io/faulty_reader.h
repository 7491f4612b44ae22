// A reader that goes wrong on purpose, in front of a real one: what a test needs to see errors, short reads, flipped
// bits and slow disks at a chosen moment.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "io/reader.h"

namespace moestro::io {

// Reads are numbered from 1 in order of submission.
struct FaultPlan {
    struct Fault {
        enum class Kind { error, shorten, flip };
        Kind kind = Kind::error;
        std::uint64_t read = 0;
        int error = 0;  // errno, for Kind::error
    };
    std::vector<Fault> faults;
    std::optional<std::uint64_t> gate_from;  // completions of this read and later ones are held back
    std::string words;                       // as it was written

    // Comma-separated: "eio@5" (also enxio, etimedout: the 5th read fails so), "short@3" (half of its bytes are claimed
    // to have arrived), "flip@7" (one bit in the middle of its bytes), "gate" or "gate@9" (hold back from the 1st or
    // 9th read). "" has no faults. Throws Error(usage) naming the word that is wrong.
    static FaultPlan parse(const std::string& words);
};

// Contract and threads as Reader has them; release, open_gate and held may be called by any thread at any time. Bytes
// of a faulty read that did not "arrive" are overwritten with 0xFF, so that using them is never right by luck.
class FaultyReader final : public Reader {
  public:
    // A wait() with nothing to return but completions behind the gate throws Error(internal) after `patience`.
    FaultyReader(std::unique_ptr<Reader> inner, FaultPlan plan, Nanos patience = 30'000'000'000);

    void submit(std::span<const ReadRequest> requests) override;
    void poll(std::vector<Completion>& out) override;
    void wait(std::vector<Completion>& out) override;
    std::size_t in_flight() const override;
    // Completions held back have arrived: they cannot be cancelled.
    std::size_t cancel(std::uint64_t tag) override;
    ReaderInfo info() const override;

    // Lets this many more completions through, now or when they arrive.
    void release(std::size_t completions);
    // Lets everything through from now on.
    void open_gate();
    // Arrived and held back. Arrivals are noticed in poll and wait only.
    std::size_t held() const;

  private:
    struct Read {
        ReadRequest request;
        bool arrived = false;
    };

    void receive(const std::vector<Completion>& arrived);
    void inject(std::uint64_t number, const ReadRequest& request, Completion& completion) const;
    bool gated(std::uint64_t number) const;
    std::size_t deliver(std::vector<Completion>& out);
    void wait_for_gate();

    const FaultPlan plan_;
    const Nanos patience_;

    mutable std::mutex mutex_;  // guards what follows; the inner reader guards itself
    std::condition_variable changed_;
    std::map<std::uint64_t, Read> reads_;  // by number; until their completion is returned
    std::deque<Completion> held_;          // tag = number
    std::uint64_t submitted_ = 0;
    std::size_t credit_ = 0;
    bool open_ = false;

    std::unique_ptr<Reader> inner_;  // last: it waits for its reads before anything above goes away
};

}  // namespace moestro::io
