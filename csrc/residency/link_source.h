// The source of a device's cache: records cross a link from the host's cache, which reads them first where it must.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "device/device.h"
#include "residency/expert_cache.h"
#include "store/record_source.h"

namespace moestro::residency {

// One thread at a time. Pins what it copies in the host's cache, which must outlive it. A record waits its turn while
// the host has no room to read it; urgent ones overtake others.
class LinkSource final : public store::RecordSource {
  public:
    // takes: of a copy on a virtual clock, by record. bytes: the same.
    LinkSource(ExpertCache& host, std::shared_ptr<const store::ExpertTable> table,
               std::unique_ptr<device::Stream> stream, std::vector<Nanos> takes);
    ~LinkSource() override;

    void start(int number, std::byte* slot, bool urgent) override;
    void flush() override;
    void poll(std::vector<store::Arrival>& out) override;
    // Blocks only where a copy or a read is under way.
    void wait(std::vector<store::Arrival>& out) override;
    std::size_t in_flight() const override { return wanted_.size() + copying_.size() + failed_.size(); }
    store::SourceCounters counters() const override { return counters_; }

    // Whether the link has the record, and when its copy is over. What is ordered behind that must still look whether
    // it failed.
    bool copying(int number) const { return find(number) != copying_.end(); }
    device::Event copied(int number) const { return find(number)->over; }  // REQUIRES copying(number)
    // What is wanted waits for room in the host's cache, all of it: only others can make some.
    bool stuck() const;
    Nanos busy() const { return busy_; }  // on a virtual clock: of copies so far

  private:
    struct Wanted {
        int number = 0;
        std::byte* slot = nullptr;
        bool urgent = false;
        Pin pin;  // of the host's record, as soon as it is there or on its way
    };
    struct Copying {
        int number = 0;
        Pin pin;
        device::Event over;
    };
    std::deque<Copying>::const_iterator find(int number) const {
        return std::find_if(copying_.begin(), copying_.end(), [&](const Copying& one) { return one.number == number; });
    }
    void pin(Wanted& wanted);
    void copy_some(bool urgent);
    void copy(Wanted& wanted);
    void take_finished(std::vector<store::Arrival>& out);
    void give_up(std::vector<store::Arrival>& out);

    ExpertCache& host_;
    const std::shared_ptr<const store::ExpertTable> table_;
    const std::unique_ptr<device::Stream> stream_;
    const std::vector<Nanos> takes_;
    std::deque<Wanted> wanted_;  // in the order of being asked for
    std::deque<Copying> copying_;
    std::vector<store::Arrival> failed_;  // on their way to the host
    store::SourceCounters counters_;
    Nanos busy_ = 0;
};

}  // namespace moestro::residency
