// Records through SSD, host and device, on a virtual clock: what one of them does in order, then everything at random.
#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <functional>
#include <random>
#include <set>

#include "device/device_slots.h"
#include "device/emulated.h"
#include "policy/layer_plan.h"
#include "residency/tiers.h"
#include "store/catalog.h"
#include "store/virtual_source.h"
#include "support/fake_source.h"
#include "support/scripted_reader.h"
#include "support/toy_model.h"

namespace moestro::residency {
namespace {

using testing::FakeSource;
using testing::ScriptedReader;
using testing::ToyModel;

constexpr std::size_t kPage = kPageBytes;

std::vector<std::size_t> sizes_of(const store::ExpertTable& table) {
    std::vector<std::size_t> bytes;
    for (int number = 0; number < table.experts(); ++number)
        bytes.push_back(table.sizes()[table.position(table.id(number).layer)].record_bytes);
    return bytes;
}

std::vector<Nanos> all_take(const store::ExpertTable& table, Nanos takes) {
    return std::vector<Nanos>(static_cast<std::size_t>(table.experts()), takes);
}

constexpr Nanos kRead = 100, kCopy = 10;

struct Setup {
    int host_slots = 4, device_slots = 3;
    Copies copies = Copies::inclusive;
    int failed_copy = 0, failed_allocation = 0;
    std::vector<store::ExpertTable::Layer> layers = {{0, 8, kPage}};
};

// Records whose bytes say whose they are.
struct Chain {
    explicit Chain(const Setup& setup = {})
        : table(std::make_shared<const store::ExpertTable>(setup.layers)),
          device(device::make_emulated(
              {.memory = 64 * kPage, .failed_allocation = setup.failed_allocation, .failed_copy = setup.failed_copy},
              lanes, std::make_shared<kernels::Compute>(1, kernels::choose_isa("")))),
          reads(new FakeSource),
          host(table, ledger, static_cast<std::size_t>(setup.host_slots) * table->largest_record(), INT_MAX,
               std::make_unique<store::VirtualSource>(lanes, static_cast<int>(policy::Lane::ssd),
                                                      all_take(*table, kRead), sizes_of(*table),
                                                      std::unique_ptr<FakeSource>(reads)),
               policy::make_eviction("lru"), *lanes->clock()),
          link(new LinkSource(host, table, device->make_stream(), all_take(*table, kCopy))),
          cache(std::make_unique<ExpertCache>(table, device_ledger,
                                              static_cast<std::size_t>(setup.device_slots) * table->largest_record(),
                                              INT_MAX, std::unique_ptr<LinkSource>(link), policy::make_eviction("lru"),
                                              *lanes->clock(), device::device_slots(device))),
          tiers(std::make_unique<Tiers>(host, DeviceTier{device, cache.get(), link, setup.copies}, lanes)) {}

    static ExpertId id(int expert) { return {0, expert}; }
    void send(int expert, bool urgent = true) {
        ASSERT_TRUE(cache->start_load(id(expert), urgent));
        cache->flush();
    }
    void read(int expert) { ASSERT_TRUE(host.start_load(id(expert), true)); }
    void finish() const {
        while (tiers->wait()) tiers->check_integrity();
        tiers->check_integrity();
    }
    Place place(int expert) const { return tiers->place(id(expert)); }
    bool right(int expert) const {
        const Pin pin = cache->pin(id(expert));
        return pin.state() == State::resident && FakeSource::owner(pin.data()) == expert;
    }

    std::shared_ptr<VirtualLanes> lanes = std::make_shared<VirtualLanes>(policy::kLanes);
    std::shared_ptr<const store::ExpertTable> table;
    std::shared_ptr<memory::Ledger> ledger = std::make_shared<memory::Ledger>(100 * kPage);
    std::shared_ptr<memory::Ledger> device_ledger = std::make_shared<memory::Ledger>(100 * kPage);
    std::shared_ptr<device::Device> device;
    FakeSource* reads;
    ExpertCache host;
    LinkSource* link;
    std::unique_ptr<ExpertCache> cache;  // the device's
    std::unique_ptr<Tiers> tiers;
};

TEST(ThreeTiers, ARecordComesThroughTheHost) {
    Chain c;
    c.send(0);
    const Pin pin = c.cache->pin(c.id(0));
    EXPECT_EQ(c.place(0), Place::uploading);
    EXPECT_EQ(c.host.state(c.id(0)), State::loading);
    EXPECT_TRUE(c.tiers->wait());
    EXPECT_EQ(c.lanes->now(), kRead);
    EXPECT_EQ(c.host.state(c.id(0)), State::resident);
    EXPECT_EQ(c.place(0), Place::uploading);
    EXPECT_TRUE(c.tiers->wait());
    EXPECT_EQ(c.place(0), Place::device);
    EXPECT_EQ(pin.ready(), kRead + kCopy);
    EXPECT_TRUE(c.right(0));
    EXPECT_FALSE(c.tiers->wait()) << "nothing is under way";
    EXPECT_EQ(c.cache->source_counters().bytes, kPage);
    EXPECT_EQ(c.link->busy(), kCopy);
}

TEST(ThreeTiers, WhatTheHostHasIsNotReadAgain) {
    Chain c;
    c.read(0);
    c.finish();
    c.send(0);
    c.finish();
    EXPECT_EQ(c.lanes->now(), kRead + kCopy);
    EXPECT_EQ(c.host.counters().loads, 1u);
    EXPECT_TRUE(c.right(0));
}

TEST(ThreeTiers, AReadUnderWayIsJoined) {
    Chain c;
    c.read(0);
    c.lanes->advance(kRead / 2);
    c.send(0);
    EXPECT_EQ(c.place(0), Place::uploading);
    c.finish();
    EXPECT_EQ(c.lanes->now(), kRead + kCopy);
    EXPECT_EQ(c.reads->started, (std::vector<int>{0}));
}

TEST(ThreeTiers, TheProcessorJoinsWhatIsReadForTheDevice) {
    Chain c;
    c.send(0);
    const Pin pin = c.host.pin(c.id(0));
    EXPECT_EQ(pin.state(), State::loading);
    c.finish();
    EXPECT_EQ(FakeSource::owner(pin.data()), 0);
    EXPECT_EQ(c.reads->started, (std::vector<int>{0}));
}

TEST(ThreeTiers, TheHostKeepsWhatIsBeingCopied) {
    Chain c({.host_slots = 2});
    for (const int expert : {0, 1}) c.read(expert);
    c.finish();
    c.send(0);
    c.send(1);
    EXPECT_FALSE(c.host.start_load(c.id(2), true)) << "both are on their way to the device";
    EXPECT_FALSE(c.host.can_evict(c.id(0)));
    c.finish();
    EXPECT_TRUE(c.host.start_load(c.id(2), true));
}

TEST(ThreeTiers, InclusiveCopiesStayInTheHost) {
    Chain c({.host_slots = 4, .device_slots = 2});
    for (const int expert : {0, 1, 2}) {
        c.send(expert);
        c.finish();
    }
    EXPECT_EQ(c.place(0), Place::host) << "the device gave it up";
    EXPECT_TRUE(c.tiers->host_copy(c.id(1)));
    EXPECT_TRUE(c.tiers->host_copy(c.id(2)));
    for (const int expert : {3, 4}) c.read(expert);
    EXPECT_EQ(c.place(0), Place::absent) << "and now the host, too";
}

TEST(ThreeTiers, EachTierGivesUpItsLeastRecent) {
    Chain c({.host_slots = 2, .device_slots = 2});
    for (const int expert : {0, 1}) {
        c.send(expert);
        c.finish();
    }
    c.host.used(c.id(0));
    c.cache->used(c.id(1));
    c.send(2);
    c.finish();
    EXPECT_EQ(c.place(0), Place::host) << "the device gave it up, the host did not";
    EXPECT_EQ(c.place(1), Place::device);
    EXPECT_FALSE(c.tiers->host_copy(c.id(1)));
    EXPECT_TRUE(c.right(1) && c.right(2));
}

TEST(ThreeTiers, OfExclusiveCopiesTheHostGivesUpWhatTheDeviceHas) {
    Chain c({.host_slots = 2, .copies = Copies::exclusive});
    c.read(0);
    c.finish();
    c.send(1);
    c.finish();
    c.read(2);
    EXPECT_EQ(c.place(0), Place::host) << "it is older, and nowhere else";
    EXPECT_FALSE(c.tiers->host_copy(c.id(1)));
    EXPECT_EQ(c.place(1), Place::device);
}

TEST(ThreeTiers, OfExclusiveCopiesTheDeviceGivesUpWhatTheHostHas) {
    Chain c({.host_slots = 2, .device_slots = 2, .copies = Copies::exclusive});
    for (const int expert : {0, 1}) {
        c.send(expert);
        c.finish();
    }
    c.read(2);
    ASSERT_FALSE(c.tiers->host_copy(c.id(0)));
    EXPECT_FALSE(c.tiers->sending_loses(*c.table)) << "record 1 is in host memory too";
    c.send(3);
    c.finish();
    EXPECT_EQ(c.place(0), Place::device) << "it is older, and nowhere else";
    EXPECT_NE(c.place(1), Place::device);
}

TEST(ThreeTiers, SendingLosesWhatOnlyAFullDeviceHas) {
    Chain c({.host_slots = 2, .device_slots = 2, .copies = Copies::exclusive});
    c.send(0);
    c.finish();
    EXPECT_FALSE(c.tiers->sending_loses(*c.table)) << "there is room";
    c.send(1);
    c.finish();
    EXPECT_FALSE(c.tiers->sending_loses(*c.table)) << "the host has both";
    for (const int expert : {2, 3}) c.read(expert);
    EXPECT_TRUE(c.tiers->sending_loses(*c.table));
}

TEST(ThreeTiers, UrgentCopiesOvertakeThoseNobodyWaitsFor) {
    Chain c({.host_slots = 6, .device_slots = 6});
    for (int expert = 0; expert < 6; ++expert) c.read(expert);
    c.finish();
    const Nanos begin = c.lanes->now();
    for (int expert = 0; expert < 5; ++expert) c.send(expert, false);
    std::vector<Pin> pins;
    for (int expert = 0; expert < 5; ++expert) pins.push_back(c.cache->pin(c.id(expert)));
    c.send(5, true);
    const Pin urgent = c.cache->pin(c.id(5));
    c.finish();
    EXPECT_EQ(urgent.ready() - begin, 3 * kCopy) << "behind the two that the link had";
    EXPECT_EQ(pins[0].ready() - begin, kCopy);
    EXPECT_EQ(pins[4].ready() - begin, 6 * kCopy);
    EXPECT_EQ(c.lanes->now() - begin, 6 * kCopy) << "and the link was never idle";
}

TEST(ThreeTiers, UrgentReadsOvertakeToo) {
    Chain c({.host_slots = 6, .device_slots = 6});
    for (int expert = 0; expert < 4; ++expert) c.send(expert, false);
    c.send(4, true);
    c.finish();
    EXPECT_EQ(c.reads->started, (std::vector<int>{0, 4, 1, 2, 3}));
}

TEST(ThreeTiers, AReadThatFailsFailsOnTheDeviceToo) {
    Chain c;
    c.reads->failures_in_ten = 10;
    c.send(0);
    Pin pin = c.cache->pin(c.id(0));
    c.finish();
    ASSERT_EQ(pin.state(), State::failed);
    EXPECT_STREQ(pin.error().what(), "no record 0");
    EXPECT_EQ(c.place(0), Place::absent);
    pin.reset();
    c.reads->failures_in_ten = 0;
    c.send(0);
    c.finish();
    EXPECT_TRUE(c.right(0));
}

TEST(ThreeTiers, ACopyThatFailsNamesItsRecordAndTheHostKeepsIt) {
    Chain c({.failed_copy = 2});
    c.send(0);
    c.send(1);
    c.send(2);
    Pin pin = c.cache->pin(c.id(1));
    c.finish();
    ASSERT_EQ(pin.state(), State::failed);
    EXPECT_EQ(pin.error().kind(), ErrorKind::io);
    EXPECT_EQ(std::string(pin.error().what()).find("layer 0, expert 1: "), 0u) << pin.error().what();
    EXPECT_EQ(c.place(1), Place::host);
    EXPECT_TRUE(c.right(0) && c.right(2)) << "nothing else fails";
    pin.reset();
    c.send(1);
    c.finish();
    EXPECT_TRUE(c.right(1));
    EXPECT_EQ(c.host.counters().loads, 3u);
}

TEST(ThreeTiers, WhatNobodyWaitsForMayFailInSilence) {
    Chain c({.failed_copy = 1});
    c.send(0, false);
    c.finish();
    EXPECT_EQ(c.place(0), Place::host);
}

// The host's slots are all held: nothing can be read, and only who holds them can change that.
struct Held : Chain {
    explicit Held() : Chain({.host_slots = 2}) {
        for (const int expert : {0, 1}) {
            read(expert);
            pins.push_back(host.pin(id(expert)));
        }
        finish();
        send(2);
        waiting = cache->pin(id(2));
    }
    Pin waiting;
    std::vector<Pin> pins;
};

TEST(ThreeTiers, IsStuckWhileTheHostHasNoRoom) {
    Held c;
    EXPECT_TRUE(c.link->stuck());
    EXPECT_FALSE(c.tiers->wait()) << "nothing is under way, so nothing ends";
    EXPECT_EQ(c.waiting.state(), State::loading);
    c.tiers->check_integrity();
    c.pins.pop_back();
    c.finish();
    EXPECT_FALSE(c.link->stuck());
    EXPECT_TRUE(c.right(2));
}

TEST(ThreeTiers, IsNotStuckWhileSomethingIsCopied) {
    Held c;
    c.send(0);
    EXPECT_FALSE(c.link->stuck());
    EXPECT_TRUE(c.tiers->wait());
    EXPECT_TRUE(c.right(0));
    EXPECT_TRUE(c.link->stuck());
}

TEST(ThreeTiers, WhoWaitsWhileItIsStuckIsToldWhy) {
    Held c;
    c.cache->wait();
    ASSERT_EQ(c.waiting.state(), State::failed);
    EXPECT_EQ(c.waiting.error().kind(), ErrorKind::usage);
    const std::string what = c.waiting.error().what();
    EXPECT_EQ(what.find("layer 0, expert 2: "), 0u) << what;
    EXPECT_NE(what.find("every expert slot in host memory is held"), std::string::npos) << what;
    EXPECT_FALSE(c.link->stuck());
    c.tiers->check_integrity();
    c.waiting.reset();
    c.pins.clear();
    c.send(2);
    c.finish();
    EXPECT_TRUE(c.right(2)) << "the next one may have more luck";
}

TEST(ThreeTiers, TheDeviceShrinksWhileItIsStuck) {
    Held c;
    c.waiting.reset();
    for (const int expert : {3, 4}) c.send(expert, false);
    ASSERT_TRUE(c.cache->set_limit(c.cache->minimum())) << "loads nobody waits for give way";
    EXPECT_LE(c.cache->loading(), 2);
    c.tiers->check_integrity();
}

// It failed in the host, where somebody still looks at the error.
struct FailedBefore : Chain {
    explicit FailedBefore() {
        reads->failures_in_ten = 10;
        read(0);
        looking = host.pin(id(0));
        finish();
        EXPECT_EQ(looking.state(), State::failed);
    }
    Pin looking;
};

TEST(ThreeTiers, WhatFailsAtOnceIsInFlightUntilItIsTakenIn) {
    FailedBefore c;
    c.send(0);
    EXPECT_EQ(c.link->in_flight(), 1u);
    EXPECT_NO_THROW(c.tiers->check_integrity());
    c.tiers->poll();
    EXPECT_EQ(c.link->in_flight(), 0u);
    EXPECT_EQ(c.cache->state(c.id(0)), State::absent);
}

TEST(ThreeTiers, WaitingTakesInWhatFailsAtOnce) {
    FailedBefore c;
    c.send(0);
    while (c.tiers->wait()) {
    }
    EXPECT_EQ(c.cache->loading(), 0) << "nothing is under way, so nothing may be left to wait for";
}

TEST(ThreeTiers, ADeviceWithLessMemoryHasFewerSlots) {
    Chain c({.device_slots = 5, .failed_allocation = 4});
    EXPECT_EQ(c.cache->slots(), 5);
    EXPECT_EQ(c.cache->refusal(), "");
    for (const int expert : {0, 1, 2, 3, 4}) {
        ASSERT_TRUE(c.cache->start_load(c.id(expert), true)) << expert;
        c.finish();
        EXPECT_TRUE(c.right(expert));
    }
    EXPECT_EQ(c.cache->slots(), 3);
    EXPECT_EQ(c.device_ledger->held(), 3 * kPage);
    EXPECT_NE(c.cache->refusal(), "");
    EXPECT_EQ(c.cache->resident(), 3);
}

TEST(ThreeTiers, ADeviceWithoutMemoryForTwoSlotsIsRefused) {
    try {
        const Chain c({.failed_allocation = 2});
        ADD_FAILURE() << "one slot is not enough";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::budget);
        EXPECT_NE(std::string(error.what()).find("there is no memory for them"), std::string::npos) << error.what();
    }
}

// The room of a large record goes to a small one, and the device takes it back but does not give it again.
TEST(ThreeTiers, ADeviceThatTakesBackButGivesNoMoreKeepsTheCacheConsistent) {
    Chain c({.device_slots = 2, .failed_allocation = 3, .layers = {{0, 4, 3 * kPage}, {1, 4, kPage}}});
    c.cache->start_load({1, 0}, true);
    EXPECT_NO_THROW(c.finish());
    EXPECT_TRUE(c.cache->start_load({0, 0}, true)) << "nothing is pinned";
    EXPECT_NO_THROW(c.finish());
}

TEST(ThreeTiers, GoWithEverythingInFlight) {
    for (const Nanos after : {Nanos{0}, kRead, 2 * kRead + kCopy / 2}) {
        auto lanes = std::make_shared<VirtualLanes>(1);
        std::shared_ptr<memory::Ledger> ledger, device_ledger;
        std::shared_ptr<device::Device> device;
        {
            Chain c;
            lanes = c.lanes;
            ledger = c.ledger;
            device_ledger = c.device_ledger;
            device = c.device;
            for (const int expert : {0, 1, 2}) c.send(expert);
            c.read(3);
            while (c.lanes->now() < after) {
                c.lanes->advance(1);
                c.tiers->poll();
            }
            EXPECT_GT(c.cache->loading(), 0);
            EXPECT_GT(c.host.loading(), 0);
        }
        EXPECT_EQ(ledger->held() + device_ledger->held(), 0u);
        EXPECT_EQ(device->allocated(), 0u);
        while (lanes->step()) {
        }
        EXPECT_FALSE(device->wait_any());
    }
}

TEST(ThreeTiers, TheDevicesCacheMayGoBeforeTheHosts) {
    Chain c;
    c.send(0);
    c.send(1);
    c.tiers->wait();
    c.tiers.reset();
    c.cache.reset();
    while (c.host.loading() > 0) c.host.wait();
    EXPECT_EQ(c.host.state(c.id(1)), State::resident) << "its read went on";
    EXPECT_TRUE(c.host.can_evict(c.id(0)) && c.host.can_evict(c.id(1))) << "nobody copies them any more";
    c.host.check_integrity();
}

// ---- at random -----------------------------------------------------------------------------------------------------

// Copies that fail when the test says.
class FlakyStream final : public device::Stream {
  public:
    FlakyStream(std::unique_ptr<device::Stream> inner, std::function<bool()> fails)
        : inner_(std::move(inner)), fails_(std::move(fails)) {}

    device::Event copy(std::byte* to, const std::byte* from, std::size_t bytes, Nanos takes) override {
        device::Event over = inner_->copy(to, from, bytes, takes);
        return fails_() ? device::Event(std::make_shared<Failed>(std::move(over))) : over;
    }
    device::Event experts(const device::ExpertsLaunch& launch, Nanos takes) override {
        return inner_->experts(launch, takes);
    }
    void wait(const device::Event& event) override { inner_->wait(event); }
    void finish() override { inner_->finish(); }

  private:
    class Failed final : public device::Event::State {
      public:
        explicit Failed(device::Event of) : of_(std::move(of)) {}
        bool over() override { return of_.over(); }
        void wait() override { of_.wait(); }
        void check() override { fail(ErrorKind::io, "the link broke"); }

      private:
        const device::Event of_;
    };
    const std::unique_ptr<device::Stream> inner_;
    const std::function<bool()> fails_;
};

// Three layers, the second of larger records.
const std::vector<store::ExpertTable::Layer> kLayers{{1, 6, kPage}, {2, 6, 3 * kPage}, {5, 6, kPage}};

struct Setting {
    unsigned seed = 1;
    Copies copies = Copies::inclusive;
    int host_slots = 5, device_slots = 4;  // of the largest record
    const ToyModel* model = nullptr;       // none: nothing has bytes
};

class Machine {
  public:
    explicit Machine(const Setting& setting)
        : setting_(setting),
          random_(setting.seed),
          catalog_(setting.model
                       ? std::make_shared<const store::Catalog>(setting.model->packed(), setting.model->open(true))
                       : nullptr),
          table_(catalog_ ? catalog_ : std::make_shared<const store::ExpertTable>(kLayers)),
          bytes_(sizes_of(*table_)),
          budget_(8 * table_->largest_record()),
          ledger_(std::make_shared<memory::Ledger>(budget_)),
          device_ledger_(std::make_shared<memory::Ledger>(budget_)),
          device_(device::make_emulated({.memory = budget_, .weightless = !setting.model}, lanes_,
                                        std::make_shared<kernels::Compute>(1, kernels::choose_isa("")))),
          host_(table_, ledger_, static_cast<std::size_t>(setting.host_slots) * table_->largest_record(), 11,
                std::make_unique<store::VirtualSource>(lanes_, static_cast<int>(policy::Lane::ssd), durations(40),
                                                       bytes_, reading()),
                eviction(), *lanes_->clock(), setting.model ? memory::host_slots() : memory::slots_without_memory()),
          link_(new LinkSource(host_, table_,
                               std::make_unique<FlakyStream>(device_->make_stream(), [this] { return copy_fails(); }),
                               durations(20))),
          cache_(table_, device_ledger_, static_cast<std::size_t>(setting.device_slots) * table_->largest_record(), 9,
                 std::unique_ptr<LinkSource>(link_), eviction(), *lanes_->clock(), device::device_slots(device_)),
          tiers_(host_, {device_, &cache_, link_, setting.copies}, lanes_) {
        remember();
    }

    struct Seen {
        int copies_failed = 0, failed = 0, given_up = 0, stuck = 0, joined = 0, refused = 0, shrunk = 0, grown = 0,
            kept = 0, arrived = 0, both = 0, evicted = 0;
    };

    // One operation, and whether records went from place to place in legal ways.
    void operate() {
        bool waited = false;
        const bool on_device = random_() % 2 == 0;
        ExpertCache& cache = on_device ? cache_ : host_;
        switch (random_() % 20) {
            case 0:
            case 1:
            case 2:
            case 3:
                load(cache);
                break;
            case 4:
            case 5:
                prefetch(cache);
                break;
            case 6:
            case 7:
                pin(on_device);
                break;
            case 8:
            case 9:
            case 10:
                unpin(on_device);
                break;
            case 11:
                cache.flush();
                break;
            case 12:
                lanes_->advance(static_cast<Nanos>(random_() % 60));
                tiers_.poll();
                waited = true;
                break;
            case 13:
                tiers_.wait();
                waited = true;
                break;
            case 14:
                // Sometimes everybody waits for one tier alone. Where it is stuck, that ends with an error.
                if (random_() % 2 > 0 || cache.loading() == 0) return;
                seen_.given_up += on_device && link_->stuck() && host_.loading() == 0;
                cache.wait();
                waited = true;
                break;
            case 15:
                move_limit(cache, on_device ? *device_ledger_ : *ledger_);
                waited = true;
                break;
            case 16:
                cache.used(any());
                failing_ = random_() % 4 == 0;
                greedy_ = random_() % 4 == 0;
                if (reads_) reads_->failures_in_ten = random_() % 4 == 0 ? 2 : 0;
                break;
            default:
                // What one end of something brings, and no more: read, or copied, and perhaps given up for another.
                if (lanes_->step()) tiers_.poll();
                waited = true;
        }
        ASSERT_NO_FATAL_FAILURE(check_edges(waited));
        remember();
    }

    void check() {
        ASSERT_NO_THROW(tiers_.check_integrity());
        ASSERT_NO_THROW(ledger_->check_integrity());
        ASSERT_NO_THROW(device_ledger_->check_integrity());
        ASSERT_EQ(ledger_->held(), host_.limit());
        ASSERT_EQ(device_ledger_->held(), cache_.limit());
        ASSERT_LE(device_->allocated(), cache_.limit());
        for (Held& held : pins_) {
            const State state = held.pin.state();
            ASSERT_NE(state, State::absent);
            if (state != State::resident) continue;
            if (!held.data) held.data = held.pin.data();
            ASSERT_EQ(held.pin.data(), held.data) << "a pinned record moved";
            ASSERT_TRUE(!setting_.model || intact(held.id, held.data)) << (held.on_device ? "device" : "host");
        }
        seen_.stuck += link_->stuck();
        for (int number = 0; number < table_->experts(); ++number)
            seen_.both += tiers_.place(table_->id(number)) == Place::device && tiers_.host_copy(table_->id(number));
    }

    // Everybody goes; then everything can go.
    void end() {
        pins_.clear();
        while (cache_.loading() > 0) cache_.wait();
        while (host_.loading() > 0) host_.wait();
        ASSERT_NO_FATAL_FAILURE(check());
        for (int number = 0; number < table_->experts(); ++number)
            for (const ExpertCache* const cache : {&host_, &cache_}) {
                const State state = cache->state(table_->id(number));
                ASSERT_TRUE(state == State::resident || state == State::absent);
            }
        for (ExpertCache* const cache : {&cache_, &host_}) ASSERT_TRUE(cache->set_limit(cache->minimum()));
        ASSERT_NO_FATAL_FAILURE(check());
    }

    const Seen& seen() const { return seen_; }
    CacheCounters counters(bool on_device) const { return (on_device ? cache_ : host_).counters(); }
    const std::shared_ptr<device::Device>& device() const { return device_; }
    const std::shared_ptr<VirtualLanes>& lanes() const { return lanes_; }
    bool busy() const { return cache_.loading() > 0 && host_.loading() > 0; }

  private:
    struct Held {
        bool on_device = false;
        ExpertId id;
        Pin pin;
        const std::byte* data = nullptr;  // where it was first seen
    };

    std::vector<Nanos> durations(unsigned most) {
        std::vector<Nanos> made;
        for (int number = 0; number < table_->experts(); ++number)
            made.push_back(static_cast<Nanos>(random_() % (most + 1)));  // some take nothing
        return made;
    }
    std::unique_ptr<policy::Eviction> eviction() {
        policy::EvictionSettings settings;
        for (const auto& layer : table_->sizes()) settings.experts.layers.push_back({layer.layer, layer.experts});
        for (int i = 0; i < table_->experts(); ++i) settings.frequencies.push_back(static_cast<double>(random_() % 9));
        const auto& names = policy::eviction_names();
        return policy::make_eviction(names[random_() % names.size()], settings);
    }
    std::unique_ptr<store::RecordSource> reading() {
        if (catalog_) return make_packed_source(catalog_, reader_, pool_, store::Verify::never, *lanes_->clock());
        auto made = std::make_unique<FakeSource>(FakeSource::Order::first_in, setting_.seed);
        reads_ = made.get();
        reads_->writes = false;
        return made;
    }
    bool copy_fails() {
        const bool fails = failing_ && random_() % 5 == 0;
        seen_.copies_failed += fails;
        return fails;
    }
    bool intact(ExpertId id, const std::byte* data) const {
        const store::ExpertLayer& layer = catalog_->layer(id.layer);
        return std::memcmp(data, setting_.model->record((id.layer - 1) / 2, id.expert), layer.record_bytes) == 0;
    }
    ExpertId any() { return table_->id(static_cast<int>(random_() % static_cast<unsigned>(table_->experts()))); }

    void remember() {
        before_.clear();
        for (int number = 0; number < table_->experts(); ++number) before_.push_back(tiers_.place(table_->id(number)));
    }
    // Whether an edge leads there; or, where something was waited for, one edge and then giving way to another record.
    static bool reachable(Place from, Place to, bool host_copy, bool waited) {
        if (from == to || legal(from, to, host_copy)) return true;
        const auto came = [&](Place by) { return waited && (legal(from, by, false) || legal(from, by, true)); };
        return (came(Place::host) && to == Place::absent) ||
               (came(Place::device) && to != Place::uploading && legal(Place::device, to, host_copy));
    }
    void check_edges(bool waited) {
        for (int number = 0; number < table_->experts(); ++number) {
            const ExpertId id = table_->id(number);
            const Place from = before_[static_cast<std::size_t>(number)], to = tiers_.place(id);
            ASSERT_TRUE(reachable(from, to, tiers_.host_copy(id), waited))
                << name(from) << " -> " << name(to) << ", record " << number;
            seen_.arrived += from != to && to == Place::device;
        }
    }

    // Loads a record if it is not there, and looks at what gave way.
    void load(ExpertCache& cache) {
        const ExpertId id = any();
        if (cache.state(id) != State::absent) return;
        const ExpertCache& other = &cache == &host_ ? cache_ : host_;
        std::set<int> first, gone, present;
        for (int number = 0; number < table_->experts(); ++number) {
            const ExpertId one = table_->id(number);
            if (cache.state(one) == State::resident) present.insert(number);
            if (cache.can_evict(one) && other.state(one) == State::resident) first.insert(number);
        }
        const bool joins = &cache == &cache_ && host_.state(id) == State::loading;
        if (!cache.start_load(id, random_() % 2 == 0)) {
            ++seen_.refused;
            return;
        }
        seen_.joined += joins;
        if (greedy_ || random_() % 3 == 0) hold(&cache == &cache_, id);
        for (const int number : present)
            if (cache.state(table_->id(number)) == State::absent) gone.insert(number);
        seen_.evicted += static_cast<int>(gone.size());
        if (setting_.copies == Copies::inclusive) return;
        ASSERT_TRUE(std::includes(first.begin(), first.end(), gone.begin(), gone.end()) ||
                    std::includes(gone.begin(), gone.end(), first.begin(), first.end()))
            << "what the other tier has goes first";
    }
    void prefetch(ExpertCache& cache) {
        const ExpertId id = any();
        if (cache.state(id) != State::absent) return;
        const unsigned salt = random_();
        std::vector<ExpertId> evicted;
        const bool started = cache.start_prefetch(
            id, [&](ExpertId one) { return (salt >> (table_->number(one) % 30)) % 2 == 0; }, evicted);
        for (const ExpertId one : evicted) ASSERT_EQ(cache.state(one), State::absent);
        ASSERT_EQ(cache.state(id), started ? State::loading : State::absent);
    }
    void pin(bool on_device) {
        const ExpertId id = any();
        if ((on_device ? cache_ : host_).state(id) != State::absent) hold(on_device, id);
    }
    void hold(bool on_device, ExpertId id) {
        if (pins_.size() < (greedy_ ? 20 : 6)) pins_.push_back({on_device, id, (on_device ? cache_ : host_).pin(id)});
    }
    void unpin(bool on_device) {
        if (greedy_ && random_() % 4 > 0) return;
        const auto one =
            std::find_if(pins_.begin(), pins_.end(), [&](const Held& held) { return held.on_device == on_device; });
        if (one == pins_.end()) return;
        seen_.failed += one->pin.state() == State::failed;
        pins_.erase(one);
    }
    void move_limit(ExpertCache& cache, const memory::Ledger& ledger) {
        const std::size_t before = cache.limit();
        const std::size_t wanted = (random_() % (budget_ / kPage + 3)) * kPage;
        const bool moved = cache.set_limit(wanted);
        ASSERT_EQ(cache.limit(), moved ? wanted : before);
        ASSERT_EQ(ledger.held(), cache.limit());
        if (!moved)
            ++seen_.kept;
        else if (wanted != before)
            ++(wanted < before ? seen_.shrunk : seen_.grown);
    }

    const Setting setting_;
    std::mt19937 random_;
    bool failing_ = false;
    bool greedy_ = false;  // pins much and keeps it: then there is no room
    Seen seen_;
    std::shared_ptr<VirtualLanes> lanes_ = std::make_shared<VirtualLanes>(policy::kLanes);
    ScriptedReader reader_;
    ThreadPool pool_{1};
    const std::shared_ptr<const store::Catalog> catalog_;
    const std::shared_ptr<const store::ExpertTable> table_;
    const std::vector<std::size_t> bytes_;
    const std::size_t budget_;
    const std::shared_ptr<memory::Ledger> ledger_, device_ledger_;
    const std::shared_ptr<device::Device> device_;
    FakeSource* reads_ = nullptr;
    ExpertCache host_;
    LinkSource* const link_;
    ExpertCache cache_;  // the device's
    const Tiers tiers_;
    std::vector<Held> pins_;
    std::vector<Place> before_;
};

class ThreeTiersMachine : public ::testing::TestWithParam<Copies> {};
INSTANTIATE_TEST_SUITE_P(Both, ThreeTiersMachine, ::testing::Values(Copies::inclusive, Copies::exclusive),
                         [](const auto& info) { return info.param == Copies::inclusive ? "inclusive" : "exclusive"; });

void run(Machine& machine, int operations) {
    for (int operation = 0; operation < operations; ++operation) {
        ASSERT_NO_FATAL_FAILURE(machine.operate()) << "operation " << operation;
        ASSERT_NO_FATAL_FAILURE(machine.check()) << "operation " << operation;
    }
}

TEST_P(ThreeTiersMachine, RandomOperationsKeepEverythingConsistent) {
    constexpr std::pair<int, int> kSlots[] = {{5, 4}, {2, 6}, {6, 2}, {3, 3}};  // in the host, on the device
    unsigned seed = 11;
    for (const auto& [host, device] : kSlots) {
        SCOPED_TRACE(text(host, " slots in the host, ", device, " on the device"));
        Machine machine({.seed = seed++, .copies = GetParam(), .host_slots = host, .device_slots = device});
        ASSERT_NO_FATAL_FAILURE(run(machine, 10000));
        ASSERT_NO_FATAL_FAILURE(machine.end());
        const Machine::Seen& seen = machine.seen();
        const std::pair<const char*, int> counts[] = {{"copies failed", seen.copies_failed},
                                                      {"failed", seen.failed},
                                                      {"given up", seen.given_up},
                                                      {"stuck", seen.stuck},
                                                      {"joined", seen.joined},
                                                      {"refused", seen.refused},
                                                      {"shrunk", seen.shrunk},
                                                      {"grown", seen.grown},
                                                      {"kept", seen.kept},
                                                      {"in both", seen.both},
                                                      {"evicted", seen.evicted}};
        for (const auto& [what, count] : counts) EXPECT_GT(count, 0) << what;
        EXPECT_GT(seen.arrived, 500);
        for (const bool on_device : {false, true}) EXPECT_GT(machine.counters(on_device).evictions, 300u);
    }
}

TEST_P(ThreeTiersMachine, PinnedRecordsHoldTheirBytesWhereverTheyAre) {
    const ToyModel model({.uneven = true});
    Machine machine({.seed = 3, .copies = GetParam(), .model = &model});
    ASSERT_NO_FATAL_FAILURE(run(machine, 3000));
    EXPECT_GT(machine.seen().arrived, 150);
    ASSERT_NO_FATAL_FAILURE(machine.end());
}

TEST_P(ThreeTiersMachine, GoesWithEverythingInFlight) {
    const ToyModel model({.uneven = true});
    int busy = 0;
    for (unsigned seed = 0; seed < 40; ++seed) {
        std::shared_ptr<device::Device> device;
        std::shared_ptr<VirtualLanes> lanes;
        {
            Machine machine({.seed = seed, .copies = GetParam(), .model = seed % 2 == 0 ? &model : nullptr});
            ASSERT_NO_FATAL_FAILURE(run(machine, 30 + static_cast<int>(seed)));
            busy += machine.busy();
            device = machine.device();
            lanes = machine.lanes();
        }
        EXPECT_EQ(device->allocated(), 0u);
        while (lanes->step()) {
        }
        EXPECT_FALSE(device->wait_any()) << "and nothing was given back too early";
    }
    EXPECT_GT(busy, 10);
}

TEST_P(ThreeTiersMachine, TheSameSeedRunsTheSameWayTwice) {
    std::vector<Nanos> times;
    for (int i = 0; i < 2; ++i) {
        Machine machine({.seed = 77, .copies = GetParam()});
        ASSERT_NO_FATAL_FAILURE(run(machine, 2000));
        times.push_back(machine.lanes()->now());
        times.push_back(machine.counters(true).served_ns);
        times.push_back(machine.counters(false).served_ns);
    }
    EXPECT_TRUE(std::equal(times.begin(), times.begin() + 3, times.begin() + 3));
}

}  // namespace
}  // namespace moestro::residency
