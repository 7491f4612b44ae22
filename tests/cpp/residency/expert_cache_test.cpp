#include "residency/expert_cache.h"

#include <gtest/gtest.h>

#include <climits>
#include <cstring>
#include <map>
#include <random>
#include <set>

#include "support/toy_model.h"

namespace moestro::residency {
namespace {

// Records that arrive, or fail, when and in what order the test says. A record's bytes say whose they are.
class FakeSource final : public store::RecordSource {
  public:
    explicit FakeSource(unsigned seed) : random_(seed) {}

    int failures_in_ten = 0;
    std::set<int> started;  // in flight

    void start(int number, std::byte* slot, bool) override {
        EXPECT_TRUE(started.insert(number).second) << "loaded twice at the same time";
        flying_.push_back({number, slot});
    }
    void flush() override {}
    void poll(std::vector<store::Arrival>& out) override { deliver(out, random_() % 2); }
    void wait(std::vector<store::Arrival>& out) override { deliver(out, 1); }
    std::size_t in_flight() const override { return flying_.size(); }
    store::SourceCounters counters() const override { return {}; }

  private:
    struct Flying {
        int number;
        std::byte* slot;
    };
    void deliver(std::vector<store::Arrival>& out, std::size_t count) {
        for (; count > 0 && !flying_.empty(); --count) {
            const std::size_t at = random_() % flying_.size();
            const Flying one = flying_[at];
            flying_.erase(flying_.begin() + static_cast<std::ptrdiff_t>(at));
            started.erase(one.number);
            std::memcpy(one.slot, &one.number, sizeof one.number);
            out.push_back({one.number, {}});
            if (static_cast<int>(random_() % 10) < failures_in_ten)
                out.back().error = Error(ErrorKind::io, text("no record ", one.number));
        }
    }
    std::mt19937 random_;
    std::vector<Flying> flying_;
};

struct Fixture {
    explicit Fixture(std::size_t records, const testing::ToyShape& shape = {}, int max_slots = INT_MAX)
        : model(shape),
          catalog(std::make_shared<const store::Catalog>(model.packed(), model.open(true))),
          ledger(std::make_shared<memory::Ledger>(std::size_t{64} << 20)),
          source(new FakeSource(7)),
          cache(catalog, ledger, records * model.record_bytes(), max_slots, std::unique_ptr<FakeSource>(source),
                policy::make_eviction("lru"), clock) {}

    ExpertId id(int position, int expert) const { return {model.layer_number(position), expert}; }
    void load(ExpertId one) {
        ASSERT_TRUE(cache.start_load(one, true));
        while (cache.loading() > 0) cache.wait();
    }
    bool holds(const Pin& pin, ExpertId one) const {
        int found;
        std::memcpy(&found, pin.data(), sizeof found);
        return found == catalog->number(one);
    }

    VirtualClock clock;
    testing::ToyModel model;
    std::shared_ptr<const store::Catalog> catalog;
    std::shared_ptr<memory::Ledger> ledger;
    FakeSource* source;
    ExpertCache cache;
};

TEST(State, OnlyTheNamedEdgesAreLegal) {
    constexpr State all[] = {State::absent, State::loading, State::resident, State::failed};
    std::set<std::pair<State, State>> edges;
    for (const State from : all)
        for (const State to : all)
            if (legal(from, to)) edges.emplace(from, to);
    const std::set<std::pair<State, State>> expected{
        {State::absent, State::loading}, {State::loading, State::resident}, {State::loading, State::failed},
        {State::loading, State::absent}, {State::resident, State::absent},  {State::failed, State::absent}};
    EXPECT_EQ(edges, expected);
}

TEST(ExpertCache, LoadsPinsAndEvictsTheLeastRecent) {
    Fixture f(2);
    f.load(f.id(0, 0));
    f.load(f.id(0, 1));
    f.cache.used(f.id(0, 0));
    f.load(f.id(1, 2));
    EXPECT_EQ(f.cache.state(f.id(0, 0)), State::resident);
    EXPECT_EQ(f.cache.state(f.id(0, 1)), State::absent);
    EXPECT_TRUE(f.holds(f.cache.pin(f.id(0, 0)), f.id(0, 0)));
    EXPECT_TRUE(f.holds(f.cache.pin(f.id(1, 2)), f.id(1, 2)));
    EXPECT_EQ(f.cache.counters().evictions, 1u);
    EXPECT_EQ(f.cache.counters().loads, 3u);
    f.cache.check_integrity();
}

TEST(ExpertCache, PinnedRecordsStay) {
    Fixture f(2);
    f.load(f.id(0, 0));
    f.load(f.id(0, 1));
    Pin first = f.cache.pin(f.id(0, 0)), second = f.cache.pin(f.id(0, 1)), again = f.cache.pin(f.id(0, 1));
    EXPECT_FALSE(f.cache.start_load(f.id(0, 2), true));
    second.reset();
    EXPECT_FALSE(f.cache.start_load(f.id(0, 2), true)) << "pinned twice, unpinned once";
    again.reset();
    EXPECT_TRUE(f.cache.start_load(f.id(0, 2), true));
    EXPECT_EQ(f.cache.state(f.id(0, 1)), State::absent);
    EXPECT_TRUE(f.holds(first, f.id(0, 0)));
    f.cache.check_integrity();
    f.cache.wait();
}

TEST(ExpertCache, AnAbandonedLoadIsJoinedLater) {
    Fixture f(2);
    ASSERT_TRUE(f.cache.start_load(f.id(0, 3), true));
    { const Pin dropped = f.cache.pin(f.id(0, 3)); }
    EXPECT_EQ(f.cache.state(f.id(0, 3)), State::loading);
    const Pin joined = f.cache.pin(f.id(0, 3));
    while (joined.state() == State::loading) f.cache.wait();
    EXPECT_TRUE(f.holds(joined, f.id(0, 3)));
    EXPECT_EQ(f.cache.counters().loads, 1u);
}

TEST(ExpertCache, AFailureReachesEveryPinThenIsForgotten) {
    Fixture f(2);
    f.source->failures_in_ten = 10;
    ASSERT_TRUE(f.cache.start_load(f.id(0, 0), true));
    {
        const Pin a = f.cache.pin(f.id(0, 0)), b = f.cache.pin(f.id(0, 0));
        f.cache.wait();
        EXPECT_EQ(a.state(), State::failed);
        EXPECT_EQ(std::string(b.error().what()), "no record 0");
        f.cache.check_integrity();
    }
    EXPECT_EQ(f.cache.state(f.id(0, 0)), State::absent);
    ASSERT_TRUE(f.cache.start_load(f.id(0, 1), true));
    f.cache.wait();
    EXPECT_EQ(f.cache.state(f.id(0, 1)), State::absent) << "nobody waited";
    f.source->failures_in_ten = 0;
    f.load(f.id(0, 0));
    EXPECT_EQ(f.cache.state(f.id(0, 0)), State::resident);
    f.cache.check_integrity();
}

TEST(ExpertCache, TheLimitMovesWithTheBudget) {
    Fixture f(6);
    const std::size_t record = f.model.record_bytes();
    for (int expert = 0; expert < 6; ++expert) f.load(f.id(0, expert));
    Pin pins[] = {f.cache.pin(f.id(0, 3)), f.cache.pin(f.id(0, 4)), f.cache.pin(f.id(0, 5))};
    EXPECT_FALSE(f.cache.set_limit(2 * record)) << "three are pinned";
    EXPECT_EQ(f.cache.limit(), 6 * record);
    EXPECT_TRUE(f.cache.set_limit(4 * record));
    EXPECT_EQ(f.cache.resident(), 4);
    EXPECT_EQ(f.ledger->held(), 4 * record);
    for (Pin& pin : pins) pin.reset();
    EXPECT_FALSE(f.cache.set_limit(2 * record - 1)) << "two slots are the least";
    EXPECT_TRUE(f.cache.set_limit(2 * record));
    EXPECT_TRUE(f.cache.set_limit(8 * record));
    f.cache.check_integrity();
}

TEST(ExpertCache, ShrinkingWaitsForLoadsNobodyWaitsFor) {
    Fixture f(4);
    for (int expert = 0; expert < 4; ++expert) ASSERT_TRUE(f.cache.start_load(f.id(0, expert), true));
    EXPECT_TRUE(f.cache.set_limit(2 * f.model.record_bytes()));
    EXPECT_LE(f.cache.loading() + f.cache.resident(), 2);
    f.cache.check_integrity();
    while (f.cache.loading() > 0) f.cache.wait();
}

TEST(ExpertCache, NeedsTwoSlots) {
    EXPECT_THROW(Fixture(1), Error);
    EXPECT_THROW(Fixture(4, {}, 1), Error);
    EXPECT_NO_THROW(Fixture(2, {}, 2));
}

TEST(ExpertCache, TimeWithReadsInFlightIsCounted) {
    Fixture f(4);
    f.clock.advance(100);
    ASSERT_TRUE(f.cache.start_load(f.id(0, 0), true));
    f.clock.advance(5);
    ASSERT_TRUE(f.cache.start_load(f.id(0, 1), true));
    f.clock.advance(7);
    EXPECT_EQ(f.cache.counters().read_busy_ns, 12);
    while (f.cache.loading() > 0) f.cache.wait();
    f.clock.advance(1000);
    EXPECT_EQ(f.cache.counters().read_busy_ns, 12);
}

// Ten thousand random operations: nothing is ever lost, doubled or overspent, and no pinned record changes.
TEST(ExpertCache, RandomOperationsKeepItConsistent) {
    testing::ToyShape shape;
    shape.uneven = true;  // two sizes of records share the limit
    Fixture f(14, shape, 11);
    const std::size_t record = f.model.record_bytes();
    std::mt19937 random(17);
    std::multimap<ExpertId, Pin> pins;
    std::uint64_t failed = 0, refused = 0, shrunk = 0;
    for (int step = 0; step < 10000; ++step) {
        const ExpertId id = f.id(static_cast<int>(random() % 3), static_cast<int>(random() % 6));
        switch (random() % 8) {
            case 0:
            case 1:
            case 2:
                if (f.cache.state(id) == State::absent)
                    refused += !f.cache.start_load(id, random() % 2 == 0);
                else if (pins.size() < 6)
                    pins.emplace(id, f.cache.pin(id));
                break;
            case 3:
            case 4:
                if (!pins.empty())
                    pins.erase(std::next(pins.begin(), static_cast<std::ptrdiff_t>(random() % pins.size())));
                break;
            case 5:
                f.cache.used(id);
                f.source->failures_in_ten = random() % 4 == 0 ? 5 : 0;
                break;
            case 6:
                random() % 2 == 0 && f.cache.loading() > 0 ? f.cache.wait() : f.cache.poll();
                break;
            case 7:
                if (random() % 8 == 0) shrunk += f.cache.set_limit((random() % 20) * record);
                break;
        }
        ASSERT_NO_THROW(f.cache.check_integrity()) << "step " << step;
        ASSERT_NO_THROW(f.ledger->check_integrity());
        ASSERT_EQ(f.ledger->held(), f.cache.limit());
        for (const auto& [pinned, pin] : pins) {
            ASSERT_NE(pin.state(), State::absent);
            if (pin.state() == State::resident) {
                ASSERT_TRUE(f.holds(pin, pinned)) << "a pinned record changed";
            }
            failed += pin.state() == State::failed;
        }
    }
    EXPECT_GT(failed, 0u);
    EXPECT_GT(refused, 0u);
    EXPECT_GT(shrunk, 0u);
    EXPECT_GT(f.cache.counters().evictions, 100u);
}

}  // namespace
}  // namespace moestro::residency
