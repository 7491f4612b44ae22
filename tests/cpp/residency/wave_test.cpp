#include "residency/wave.h"

#include <gtest/gtest.h>

#include <climits>
#include <numeric>
#include <random>
#include <tuple>
#include <utility>

#include "support/fake_source.h"

namespace moestro::residency {
namespace {

using testing::FakeSource;
using Order = FakeSource::Order;
using Stage = Wave::Stage;

struct Event {
    enum class Kind { comes, goes } kind;
    ExpertId id;
    bool operator==(const Event&) const = default;
};

// Least recently used, and a diary of what came and went.
class Spy final : public policy::Eviction {
  public:
    explicit Spy(std::vector<Event>& events) : events_(events), policy_(policy::make_eviction("lru")) {}

    std::string_view name() const override { return "spy"; }
    void on_insert(ExpertId id) override {
        events_.push_back({Event::Kind::comes, id});
        policy_->on_insert(id);
    }
    void on_use(ExpertId id) override { policy_->on_use(id); }
    void on_evict(ExpertId id) override {
        events_.push_back({Event::Kind::goes, id});
        policy_->on_evict(id);
    }
    std::optional<ExpertId> victim(const policy::Evictable& evictable, std::optional<ExpertId> incoming) override {
        return policy_->victim(evictable, incoming);
    }

  private:
    std::vector<Event>& events_;
    const std::unique_ptr<policy::Eviction> policy_;
};

constexpr int kExperts = 8;

struct Fixture {
    explicit Fixture(int slots, Order order = Order::first_in, unsigned seed = 1)
        : table(std::make_shared<const store::ExpertTable>(std::vector<store::ExpertTable::Layer>{
              {0, kExperts, kPageBytes}, {2, kExperts, kPageBytes}, {3, kExperts, kPageBytes}})),
          source(new FakeSource(order, seed)),
          cache(table, std::make_shared<memory::Ledger>(std::size_t{1} << 20),
                static_cast<std::size_t>(slots) * kPageBytes, INT_MAX, std::unique_ptr<FakeSource>(source),
                std::make_unique<Spy>(events), clock) {}

    void load(int expert) {
        ASSERT_TRUE(cache.start_load({0, expert}, true));
        while (cache.loading() > 0) cache.wait();
    }
    // Of layer 0.
    void begin(Wave& wave, std::initializer_list<std::int32_t> experts) {
        std::vector<ExpertId> ids;
        for (const std::int32_t expert : experts) ids.push_back({0, expert});
        wave.begin(cache, ids);
    }
    void arrive(int number) {
        source->deliver_next({number});
        cache.wait();
    }

    VirtualClock clock;
    std::vector<Event> events;
    std::shared_ptr<const store::ExpertTable> table;
    FakeSource* source;
    ExpertCache cache;
};

struct Ask {
    std::vector<ExpertId> ids;
};

// Random experts of one layer after the other.
std::vector<Ask> random_asks(int count, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Ask> asks;
    const int layers[] = {0, 2, 3};
    for (int i = 0; i < count; ++i) {
        std::vector<std::int32_t> experts(kExperts);
        std::iota(experts.begin(), experts.end(), 0);
        std::shuffle(experts.begin(), experts.end(), random);
        experts.resize(1 + random() % kExperts);
        std::sort(experts.begin(), experts.end());
        Ask ask;
        for (const std::int32_t expert : experts) ask.ids.push_back({layers[i % 3], expert});
        asks.push_back(std::move(ask));
    }
    return asks;
}

// Does what asks for records do: computes whatever is there, in any order, until nothing is left.
void serve(Fixture& f, const std::vector<Ask>& asks, unsigned seed) {
    std::mt19937 random(seed);
    Wave wave;
    for (const Ask& ask : asks) {
        wave.begin(f.cache, ask.ids);
        while (wave.left() > 0) {
            wave.acquire();
            std::vector<int> ready;
            for (int item = 0; item < wave.size(); ++item)
                if (wave.stage(item) == Stage::pinned && wave.pin(item).state() == State::resident)
                    ready.push_back(item);
            if (ready.empty()) {
                f.cache.wait();
                continue;
            }
            const int item = ready[random() % ready.size()];
            ASSERT_EQ(FakeSource::owner(wave.pin(item).data()), f.table->number(wave.id(item)));
            wave.done(item);
            f.source->per_poll = random() % 3;
            f.cache.poll();
            ASSERT_NO_THROW(f.cache.check_integrity());
        }
        wave.end();
        for (const ExpertId id : ask.ids) f.cache.used(id);
    }
}

TEST(Wave, WhatComesAndGoesDoesNotDependOnWhenReadsArrive) {
    for (const int slots : {2, 3, 5, kExperts, kExperts + 3, 3 * kExperts}) {
        const std::vector<Ask> asks = random_asks(60, static_cast<unsigned>(slots));
        std::vector<Event> expected;
        std::vector<int> started;
        for (const auto& [order, seed] : std::vector<std::pair<Order, unsigned>>{{Order::first_in, 1},
                                                                                 {Order::last_in, 2},
                                                                                 {Order::shuffled, 3},
                                                                                 {Order::shuffled, 4},
                                                                                 {Order::shuffled, 5},
                                                                                 {Order::shuffled, 6}}) {
            Fixture f(slots, order, seed);
            serve(f, asks, seed);
            if (expected.empty()) {
                expected = f.events;
                started = f.source->started;
            }
            ASSERT_EQ(f.events, expected) << slots << " slots, seed " << seed;
            ASSERT_EQ(f.source->started, started);
            EXPECT_EQ(f.cache.counters().evictions > 0, slots < 3 * kExperts);
        }
        EXPECT_GE(started.size(), 3 * static_cast<std::size_t>(kExperts));
    }
}

TEST(Wave, PinsAreGivenUpInTheOrderInWhichTheyWereTaken) {
    Fixture f(3);
    Wave wave;
    f.begin(wave, {0, 1, 2, 3, 4, 5});
    EXPECT_EQ(f.source->started, (std::vector<int>{0, 1, 2}));
    EXPECT_EQ(wave.stage(3), Stage::todo);
    f.arrive(2);
    wave.done(2);
    f.arrive(1);
    wave.done(1);
    EXPECT_EQ(f.source->started.size(), 3u) << "the first one holds its place, and those behind it wait";
    EXPECT_EQ(f.cache.state({0, 1}), State::resident);
    EXPECT_FALSE(f.cache.start_load({2, 0}, true)) << "all three are pinned still";
    f.arrive(0);
    wave.done(0);
    EXPECT_EQ(f.source->started, (std::vector<int>{0, 1, 2, 3, 4, 5})) << "then all three went, in turn";
    EXPECT_EQ(f.events, (std::vector<Event>{{Event::Kind::comes, {0, 0}},
                                            {Event::Kind::comes, {0, 1}},
                                            {Event::Kind::comes, {0, 2}},
                                            {Event::Kind::goes, {0, 0}},
                                            {Event::Kind::comes, {0, 3}},
                                            {Event::Kind::goes, {0, 1}},
                                            {Event::Kind::comes, {0, 4}},
                                            {Event::Kind::goes, {0, 2}},
                                            {Event::Kind::comes, {0, 5}}}));
    EXPECT_EQ(wave.left(), 3);
    EXPECT_THROW(wave.done(0), Error) << "it is done already";
    wave.end();
    f.cache.wait();
}

TEST(Wave, WhatIsHereIsPinnedBeforeAnythingMakesRoom) {
    Fixture f(3);
    for (const int expert : {6, 7, 5}) f.load(expert);  // 6 would be the first to go
    Wave wave;
    f.begin(wave, {0, 1, 6});
    EXPECT_EQ(wave.found(2), State::resident);
    EXPECT_EQ(wave.found(0), State::absent);
    EXPECT_EQ(f.cache.state({0, 6}), State::resident);
    EXPECT_EQ(f.cache.state({0, 7}), State::absent);
    EXPECT_EQ(f.cache.state({0, 5}), State::absent);
    EXPECT_EQ(FakeSource::owner(wave.pin(2).data()), 6);
    wave.done(2);
    f.cache.wait();
    f.cache.wait();
    EXPECT_EQ(wave.pin(0).state(), State::resident);
    EXPECT_EQ(wave.pin(1).state(), State::resident);
    wave.done(0);
    EXPECT_TRUE(wave.waiting());
    wave.done(1);
    EXPECT_FALSE(wave.waiting());
    EXPECT_EQ(wave.left(), 0);
}

TEST(Wave, LoadsAreJoined) {
    Fixture f(4);
    ASSERT_TRUE(f.cache.start_load({0, 2}, false));
    Wave first, second;
    f.begin(first, {1, 2});
    f.begin(second, {1, 2, 3});
    EXPECT_EQ(first.found(1), State::loading);
    EXPECT_EQ(second.found(0), State::loading);
    EXPECT_EQ(second.found(2), State::absent);
    EXPECT_EQ(f.source->started, (std::vector<int>{2, 1, 3}));
    while (f.cache.loading() > 0) f.cache.wait();
    first.done(0);
    first.done(1);
    EXPECT_EQ(FakeSource::owner(second.pin(0).data()), 1) << "the other one keeps it";
    EXPECT_EQ(second.pin(1).data(), f.cache.pin({0, 2}).data());
    first.end();
    second.end();
    f.cache.check_integrity();
}

TEST(Wave, AFailedLoadStaysWithItsItemUntilTheEnd) {
    Fixture f(2);
    f.source->failures_in_ten = 10;
    Wave wave;
    f.begin(wave, {3, 4, 5});
    f.arrive(3);
    EXPECT_EQ(wave.stage(0), Stage::pinned);
    ASSERT_EQ(wave.pin(0).state(), State::failed);
    EXPECT_EQ(std::string(wave.pin(0).error().what()), "no record 3");
    EXPECT_EQ(f.cache.state({0, 3}), State::failed);
    wave.acquire();
    EXPECT_EQ(wave.pin(2).state(), State::loading) << "what failed holds no slot";
    f.source->failures_in_ten = 0;
    f.arrive(4);
    wave.done(1);
    EXPECT_EQ(wave.pin(0).state(), State::failed);
    wave.end();
    EXPECT_EQ(f.cache.state({0, 3}), State::absent) << "nobody has to know any more";
    EXPECT_EQ(f.cache.state({0, 4}), State::resident);
    f.begin(wave, {3});
    f.arrive(3);
    EXPECT_EQ(wave.pin(0).state(), State::resident) << "it is read again";
    f.cache.check_integrity();
    wave.end();
    f.cache.wait();
}

TEST(Wave, DisarmedItemsAreToDoAgain) {
    Fixture f(3);
    Wave wave;
    f.begin(wave, {0, 1, 2, 3});
    while (f.cache.loading() > 0) f.cache.wait();
    wave.done(1);
    EXPECT_TRUE(wave.disarm());
    EXPECT_FALSE(wave.waiting());
    EXPECT_EQ(wave.left(), 3);
    EXPECT_EQ(wave.stage(0), Stage::todo);
    EXPECT_EQ(wave.stage(1), Stage::done) << "what is done stays done";
    EXPECT_FALSE(wave.disarm()) << "there was none";
    Wave other;
    f.cache.check_integrity();
    f.begin(other, {5, 6, 7});
    EXPECT_EQ(f.cache.resident(), 0) << "nothing was pinned, the done one included";
    wave.acquire();
    EXPECT_FALSE(wave.waiting()) << "no room yet";
    while (f.cache.loading() > 0) f.cache.wait();
    other.end();
    wave.acquire();
    EXPECT_TRUE(wave.waiting());
    EXPECT_EQ(f.source->started, (std::vector<int>{0, 1, 2, 5, 6, 7, 0, 2, 3}));
    while (f.cache.loading() > 0) f.cache.wait();
    for (const int item : {3, 0, 2}) wave.done(item);
    EXPECT_EQ(wave.left(), 0);
    f.cache.check_integrity();
}

TEST(Wave, DisarmForgetsFailures) {
    Fixture f(2);
    f.source->failures_in_ten = 10;
    Wave wave;
    f.begin(wave, {0});
    f.cache.wait();
    ASSERT_EQ(wave.pin(0).state(), State::failed);
    EXPECT_TRUE(wave.disarm());
    f.source->failures_in_ten = 0;
    wave.acquire();
    f.cache.wait();
    EXPECT_EQ(wave.pin(0).state(), State::resident);
}

TEST(Wave, EndDropsEveryPin) {
    Fixture f(4);
    Wave wave;
    f.begin(wave, {0, 1, 2, 3, 4});
    f.arrive(2);
    f.arrive(1);
    wave.done(2);
    wave.end();
    wave.end();
    EXPECT_EQ(wave.size(), 0);
    EXPECT_FALSE(wave.waiting());
    while (f.cache.loading() > 0) f.cache.wait();
    for (int expert = 0; expert < 4; ++expert) EXPECT_TRUE(f.cache.start_load({3, expert}, true)) << "none is pinned";
    f.cache.check_integrity();
    while (f.cache.loading() > 0) f.cache.wait();
    f.begin(wave, {0, 1, 2, 3});
    while (f.cache.loading() > 0) f.cache.wait();
    f.begin(wave, {7});  // ends the one before
    while (f.cache.loading() > 0) f.cache.wait();
    EXPECT_EQ(wave.size(), 1);
    for (const int expert : {4, 5, 6}) EXPECT_TRUE(f.cache.start_load({3, expert}, true));
    EXPECT_FALSE(f.cache.start_load({3, 7}, true)) << "three load and the wave's one is pinned";
    while (f.cache.loading() > 0) f.cache.wait();
}

TEST(Wave, AnEmptyOneIsOverAtOnce) {
    Fixture f(2);
    Wave wave;
    f.begin(wave, {});
    EXPECT_EQ(wave.left(), 0);
    EXPECT_FALSE(wave.waiting());
    wave.acquire();
    EXPECT_TRUE(f.source->started.empty());
}

}  // namespace
}  // namespace moestro::residency
