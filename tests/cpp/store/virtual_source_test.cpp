#include "store/virtual_source.h"

#include <gtest/gtest.h>

#include <climits>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "io/faulty_reader.h"
#include "store/catalog.h"
#include "support/fake_source.h"
#include "support/scripted_reader.h"
#include "support/toy_model.h"

namespace moestro::store {
namespace {

using testing::FakeSource;
using testing::ScriptedReader;
using testing::ToyModel;

constexpr int kLane = 0, kOther = 1;

struct Fixture {
    explicit Fixture(std::unique_ptr<RecordSource> from = nullptr)
        : source(std::make_unique<VirtualSource>(lanes, kLane, std::vector<Nanos>{100, 50, 10, 0},
                                                 std::vector<std::size_t>{4096, 8192, 4096, 4096}, std::move(from))) {}

    void start(int number, bool urgent = true) { source->start(number, slots[number], urgent); }
    std::vector<int> poll() {
        source->poll(arrivals);
        return taken();
    }
    std::vector<int> wait() {
        source->wait(arrivals);
        return taken();
    }
    std::vector<int> taken() {
        std::vector<int> numbers;
        for (const Arrival& one : std::exchange(arrivals, {})) {
            EXPECT_FALSE(one.error);
            numbers.push_back(one.number);
        }
        return numbers;
    }

    std::shared_ptr<VirtualLanes> lanes = std::make_shared<VirtualLanes>(2);
    std::byte slots[4][8] = {};
    std::unique_ptr<VirtualSource> source;
    std::vector<Arrival> arrivals;
};

TEST(VirtualSource, ServesOneRecordAfterTheOther) {
    Fixture f;
    f.start(0);
    f.start(1);
    EXPECT_EQ(f.source->in_flight(), 2u);
    EXPECT_EQ(f.poll(), (std::vector<int>{}));
    f.lanes->advance(99);
    EXPECT_EQ(f.poll(), (std::vector<int>{}));
    f.lanes->advance(1);
    EXPECT_EQ(f.source->in_flight(), 2u) << "until it was taken in";
    EXPECT_EQ(f.poll(), (std::vector<int>{0}));
    f.lanes->advance(49);
    EXPECT_EQ(f.poll(), (std::vector<int>{}));
    EXPECT_EQ(f.wait(), (std::vector<int>{1}));
    EXPECT_EQ(f.lanes->now(), 150);
    EXPECT_EQ(f.source->in_flight(), 0u);
    EXPECT_EQ(f.source->busy(), 150);
    EXPECT_EQ(f.source->counters().bytes, 4096u + 8192);
    EXPECT_EQ(f.source->counters().reads, 2u);
    EXPECT_THROW(f.wait(), Error) << "nothing will come";
}

TEST(VirtualSource, GoesOnWhileNobodyLooks) {
    Fixture f;
    f.start(0);
    f.start(1);
    f.start(2);
    f.lanes->advance(155);
    EXPECT_EQ(f.poll(), (std::vector<int>{0, 1}));
    EXPECT_EQ(f.wait(), (std::vector<int>{2}));
    EXPECT_EQ(f.lanes->now(), 160) << "it began at 150, whenever somebody asked";
    f.lanes->advance(1000);
    f.start(1);
    EXPECT_EQ(f.wait(), (std::vector<int>{1}));
    EXPECT_EQ(f.lanes->now(), 1210) << "and not before it was asked for";
}

TEST(VirtualSource, WhatIsWaitedForOvertakesButInterruptsNothing) {
    Fixture f;
    f.start(0, false);
    f.start(1, false);
    f.start(2, true);
    EXPECT_EQ(f.wait(), (std::vector<int>{0}));
    EXPECT_EQ(f.wait(), (std::vector<int>{2}));
    EXPECT_EQ(f.lanes->now(), 110);
    EXPECT_EQ(f.wait(), (std::vector<int>{1}));
    EXPECT_EQ(f.lanes->now(), 160);
}

TEST(VirtualSource, UrgentOnesKeepTheirOrder) {
    Fixture f;
    for (const int number : {3, 2, 0, 1}) f.start(number, number != 2);
    EXPECT_EQ(f.wait(), (std::vector<int>{3}));
    EXPECT_EQ(f.wait(), (std::vector<int>{0}));
    EXPECT_EQ(f.wait(), (std::vector<int>{1}));
    EXPECT_EQ(f.wait(), (std::vector<int>{2}));
}

TEST(VirtualSource, WhatTakesNoTimeComesWithTheNextStep) {
    Fixture f;
    f.start(3);
    EXPECT_EQ(f.wait(), (std::vector<int>{3}));
    EXPECT_EQ(f.lanes->now(), 0);
}

TEST(VirtualSource, OtherLanesGoOnWhileItIsWaitedFor) {
    Fixture f;
    Nanos ended = -1;
    f.lanes->submit(kOther, 60, {}, [&] { ended = f.lanes->now(); });
    f.start(0);
    EXPECT_EQ(f.wait(), (std::vector<int>{0}));
    EXPECT_EQ(ended, 60);
}

TEST(VirtualSource, ReadsFromTheRealSourceWhenItsTimeHasCome) {
    auto inner = std::make_unique<FakeSource>();
    FakeSource* const from = inner.get();
    Fixture f(std::move(inner));
    f.start(1);
    f.start(2);
    EXPECT_TRUE(from->started.empty());
    f.lanes->advance(49);
    EXPECT_TRUE(from->started.empty());
    f.lanes->advance(1);
    EXPECT_EQ(from->started, (std::vector<int>{1}));
    EXPECT_EQ(f.poll(), (std::vector<int>{1}));
    EXPECT_EQ(FakeSource::owner(f.slots[1]), 1);
    EXPECT_EQ(f.wait(), (std::vector<int>{2}));
    EXPECT_EQ(FakeSource::owner(f.slots[2]), 2);
}

TEST(VirtualSource, ErrorsPassThroughWithTheirRecord) {
    auto inner = std::make_unique<FakeSource>();
    inner->failures_in_ten = 10;
    Fixture f(std::move(inner));
    f.start(1);
    f.source->wait(f.arrivals);
    ASSERT_EQ(f.arrivals.size(), 1u);
    EXPECT_EQ(f.arrivals[0].number, 1);
    ASSERT_TRUE(f.arrivals[0].error);
    EXPECT_STREQ(f.arrivals[0].error->what(), "no record 1");
    EXPECT_EQ(f.source->in_flight(), 0u);
}

// A packed store's source under a disk of virtual time.
struct PackedWorld {
    explicit PackedWorld(const std::string& faults = "")
        : model({.uneven = true}),
          catalog(std::make_shared<const Catalog>(model.packed(), model.open(true))),
          scripted(new ScriptedReader),
          reader(std::unique_ptr<io::Reader>(scripted), io::FaultPlan::parse(faults)),
          slots(static_cast<std::size_t>(catalog->experts()) * catalog->largest_record()) {
        std::vector<Nanos> takes;
        std::vector<std::size_t> bytes;
        for (int number = 0; number < catalog->experts(); ++number) {
            takes.push_back(10 + number);
            bytes.push_back(catalog->extent(number).bytes);
        }
        source = std::make_unique<VirtualSource>(
            lanes, kLane, takes, bytes,
            make_packed_source(catalog, reader, pool, Verify::always, *lanes->clock(), false));
    }

    std::byte* slot(int number) const {
        return slots.data() + static_cast<std::size_t>(number) * catalog->largest_record();
    }
    bool intact(int number) const {
        const ExpertId id = catalog->id(number);
        return std::memcmp(slot(number), model.record((id.layer - 1) / 2, id.expert), catalog->extent(number).bytes) ==
               0;
    }

    std::shared_ptr<VirtualLanes> lanes = std::make_shared<VirtualLanes>(1);
    ToyModel model;
    std::shared_ptr<const Catalog> catalog;
    ThreadPool pool{1};
    ScriptedReader* scripted;
    io::FaultyReader reader;
    PageBuffer slots;
    std::unique_ptr<VirtualSource> source;
};

TEST(VirtualSource, BytesAreThePackedStoresAndComeAtTheVirtualTime) {
    PackedWorld w;
    for (int number = 0; number < w.catalog->experts(); ++number) w.source->start(number, w.slot(number), true);
    w.source->flush();
    EXPECT_EQ(w.scripted->submitted, 0u);
    Nanos expected = 0;
    for (int number = 0; number < w.catalog->experts(); ++number) {
        EXPECT_FALSE(w.intact(number));
        std::vector<Arrival> arrivals;
        w.source->wait(arrivals);
        ASSERT_EQ(arrivals.size(), 1u);
        EXPECT_EQ(arrivals[0].number, number);
        EXPECT_FALSE(arrivals[0].error);
        EXPECT_TRUE(w.intact(number));
        EXPECT_EQ(w.lanes->now(), expected += 10 + number);
    }
    EXPECT_EQ(w.source->counters().reads, static_cast<std::uint64_t>(w.catalog->experts()));
    EXPECT_EQ(w.source->counters().bytes, w.catalog->record_bytes());
}

TEST(VirtualSource, WhatTheDiskFailsWithPassesThrough) {
    PackedWorld w("eio@1,flip@2");
    for (const int number : {0, 1, 2}) w.source->start(number, w.slot(number), true);
    std::vector<Arrival> arrivals;
    while (w.source->in_flight() > 0) w.source->wait(arrivals);
    ASSERT_EQ(arrivals.size(), 3u);
    ASSERT_TRUE(arrivals[0].error && arrivals[1].error);
    EXPECT_EQ(arrivals[0].error->kind(), ErrorKind::io);
    EXPECT_EQ(arrivals[1].error->kind(), ErrorKind::integrity);
    EXPECT_FALSE(arrivals[2].error);
    EXPECT_TRUE(w.intact(2));
}

TEST(VirtualSource, GoesWithReadsInFlight) {
    Fixture f;
    for (const int number : {0, 1, 2}) f.start(number);
    f.lanes->advance(10);
    f.source.reset();
    f.lanes->advance(1000);
    EXPECT_FALSE(f.lanes->step()) << "nothing of it is left under way";
}

// Counts what outlives the source.
class CountingSource final : public RecordSource {
  public:
    explicit CountingSource(std::shared_ptr<int> started) : started_(std::move(started)) {}
    void start(int number, std::byte*, bool) override {
        ++*started_;
        flying_.push_back(number);
    }
    void flush() override {}
    void poll(std::vector<Arrival>& out) override {
        for (const int number : std::exchange(flying_, {})) out.push_back({number, {}});
    }
    void wait(std::vector<Arrival>& out) override { poll(out); }
    std::size_t in_flight() const override { return flying_.size(); }
    SourceCounters counters() const override { return {}; }

  private:
    const std::shared_ptr<int> started_;
    std::vector<int> flying_;
};

// Who reads for a source, and the slots, may be gone before it is: only what arrives is read.
TEST(VirtualSource, NothingIsReadWhileItGoes) {
    const auto started = std::make_shared<int>(0);
    {
        Fixture f(std::make_unique<CountingSource>(started));
        for (const int number : {0, 1, 2}) f.start(number);
        EXPECT_EQ(f.wait(), (std::vector<int>{0}));
        EXPECT_EQ(*started, 1);
    }
    EXPECT_EQ(*started, 1);
}

}  // namespace
}  // namespace moestro::store
