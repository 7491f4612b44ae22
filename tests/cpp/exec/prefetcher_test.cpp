#include "exec/prefetcher.h"

#include <gtest/gtest.h>

#include <climits>
#include <functional>
#include <map>
#include <utility>

#include "support/fake_source.h"

namespace moestro::exec {
namespace {

using policy::Hint;
using residency::State;
using testing::FakeSource;

constexpr int kExperts = 32;
constexpr int kLayers[] = {1, 2, 4};
constexpr std::size_t kSmall = kPageBytes, kLarge = std::size_t{4} << 20;  // of large ones two are read at a time

policy::LaneCosts measured() {
    policy::LaneCosts costs;
    costs.ssd = 4096;
    return costs;
}

// Says what the test says, and writes down what it is told.
class Oracle final : public policy::Predictor {
  public:
    std::map<int, std::vector<Hint>> says;  // by the layer that has just routed
    std::vector<std::string> heard;
    policy::Outlook outlook;  // the latest

    std::string_view name() const override { return "oracle"; }
    int lookahead() const override { return 2; }
    void on_step(std::span<const std::int32_t> tokens) override {
        heard.push_back(text("step of ", tokens.size(), " from ", tokens[0]));
    }
    void on_routing(int layer, const policy::Chosen& chosen) override {
        heard.push_back(text("layer ", layer, " chose ", chosen.ids[0], " for ", chosen.rows));
    }
    void on_ahead(int layer, int target, const policy::Thought& thought) override {
        heard.push_back(text("layer ", layer, " thinks of ", target, ": ", thought.best[0].expert));
    }
    void on_token(std::int32_t token) override { heard.push_back(text("token ", token)); }
    void on_use(ExpertId id) override { heard.push_back(text("used ", id.layer, ".", id.expert)); }
    void predict(int layer, const policy::Outlook& now, std::vector<Hint>& hints) override {
        outlook = now;
        hints.insert(hints.end(), says[layer].begin(), says[layer].end());
    }
};

struct World {
    explicit World(int slots = 3 * kExperts, std::size_t record = kSmall)
        : table(std::make_shared<const store::ExpertTable>(std::vector<store::ExpertTable::Layer>{
              {kLayers[0], kExperts, record}, {kLayers[1], kExperts, record}, {kLayers[2], kExperts, record}})),
          source(new FakeSource),
          cache(table, std::make_shared<memory::Ledger>(100 * record), static_cast<std::size_t>(slots) * record,
                INT_MAX, std::unique_ptr<FakeSource>(source), policy::make_eviction("lru"), clock,
                memory::slots_without_memory()),
          costs(measured(), record),
          oracle(new Oracle),
          prefetcher(std::unique_ptr<Oracle>(oracle), *table, cache, costs, clock) {
        source->writes = false;
        costs.layer(1000 * 4096, 0);  // time for anything; the disk rests, so a read costs a fifth of itself
    }

    void begin_step() {
        const std::int32_t token[] = {7};
        prefetcher.begin_step(token);
    }
    void routed(int layer, std::vector<std::int32_t> chosen) {
        prefetcher.routed(layer, {chosen, 1, static_cast<int>(chosen.size())});
    }
    // What a run does in a layer: routes, reads what is missing and computes.
    void run(int layer, std::vector<std::int32_t> chosen) {
        routed(layer, chosen);
        for (const std::int32_t expert : chosen)
            if (cache.state({layer, expert}) == State::absent) {
                ASSERT_TRUE(cache.start_load({layer, expert}, true));
            }
        prefetcher.advise(layer);
        arrive();
        prefetcher.go_on();
        arrive();
    }
    void arrive() {
        while (cache.loading() > 0) cache.wait();
    }
    void load(ExpertId id) {
        ASSERT_TRUE(cache.start_load(id, true));
        arrive();
    }
    bool started(ExpertId id) const {
        const auto& all = source->started;
        return std::find(all.begin(), all.end(), table->number(id)) != all.end();
    }
    const PrefetchCounters& counted(int layer) const { return prefetcher.counters()[table->position(layer)]; }

    VirtualClock clock;
    std::shared_ptr<const store::ExpertTable> table;
    FakeSource* source;
    residency::ExpertCache cache;
    LiveCosts costs;
    Oracle* oracle;
    Prefetcher prefetcher;
};

TEST(Prefetcher, AHintIsReadExactlyWhenItIsWorthMoreThanItsPrice) {
    World world;
    // A miss costs 4096 ns, a read a fifth of that: 819.2.
    world.oracle->says[-1] = {{{1, 0}, 0.201f}, {{1, 1}, 0.199f},       {{1, 2}, 0.05f},
                              {{1, 3}, 1.0f},   {{1, 4}, 0.125f, 6560}, {{1, 5}, 0.125f, 6540}};
    world.begin_step();
    for (const int expert : {0, 3, 4}) EXPECT_TRUE(world.started({1, expert})) << expert;
    for (const int expert : {1, 2, 5}) EXPECT_FALSE(world.started({1, expert})) << expert;
    EXPECT_EQ(world.counted(1).started, 3u);
    EXPECT_EQ(world.source->started[0], 3) << "the most valuable first";
    world.prefetcher.abort_step();

    // A busy disk takes only what is nearly certain.
    World busy;
    for (int i = 0; i < 40; ++i) busy.costs.layer(1000 * 4096, 1000 * 4096);
    const auto share = static_cast<float>(busy.costs.demand_share());
    ASSERT_GT(share, 0.5f);
    ASSERT_LT(share, 0.98f);
    busy.oracle->says[-1] = {{{1, 0}, share + 0.01f}, {{1, 1}, share - 0.01f}, {{1, 2}, 0.5f}};
    busy.begin_step();
    EXPECT_EQ(busy.source->started, (std::vector<int>{0}));
}

TEST(Prefetcher, ClaimsThatDoNotComeTrueAreBelievedLess) {
    World world;
    // After n claims of 0.5 in vain the next one is worth (0.5 * 8) / (8 + n): more than a fifth up to n = 11.
    for (int step = 0; step < 15; ++step) {
        world.oracle->says[1] = {{{2, step}, 0.5f}};
        world.begin_step();
        world.run(1, {0});
        world.run(2, {31});
        world.prefetcher.end_step();
    }
    EXPECT_EQ(world.counted(2).started, 12u);
    EXPECT_TRUE(world.started({2, 11}));
    EXPECT_FALSE(world.started({2, 12}));
    EXPECT_EQ(world.counted(2).hinted, 15u) << "what it says is counted all the same";
    EXPECT_EQ(world.counted(2).foreseen, 0u);
    EXPECT_FALSE(world.counted(2).off) << "that takes more";
    EXPECT_EQ(world.counted(2).wasted_bytes, 12 * kSmall);
}

TEST(Prefetcher, ClaimsThatComeTrueAreBelievedMore) {
    World world;
    // 0.15 is too little at first; with n of n claims come true it is (0.15 * 8 + n) / (8 + n).
    for (int step = 0; step < 3; ++step) {
        world.oracle->says[1] = {{{2, step}, 0.15f}};
        world.begin_step();
        world.run(1, {0});
        EXPECT_EQ(world.counted(2).started, step == 0 ? 0u : static_cast<unsigned>(step));
        world.run(2, {step});
        world.prefetcher.end_step();
    }
    EXPECT_EQ(world.counted(2).used_bytes, 2 * kSmall);
}

TEST(Prefetcher, WhatTheRouterHasDecidedIsNoLongerQueued) {
    World world(12, kLarge);
    for (std::int32_t expert = 0; expert < 6; ++expert) world.oracle->says[-1].push_back({{2, expert}, 0.9f});
    world.begin_step();
    EXPECT_EQ(world.source->started.size(), 2u) << "so many at a time";
    world.arrive();
    world.oracle->says[-1].clear();
    world.routed(2, {5});
    EXPECT_EQ(world.counted(2).cancelled, 4u) << "the one that was chosen is somebody else's now";
    world.prefetcher.go_on();
    EXPECT_EQ(world.source->started.size(), 2u);
    EXPECT_EQ(world.counted(2).wasted_bytes, 2 * kLarge);
}

TEST(Prefetcher, WhatIsNoLongerExpectedIsNoLongerQueued) {
    World world(12, kLarge);
    for (std::int32_t expert = 0; expert < 6; ++expert) world.oracle->says[-1].push_back({{2, expert}, 0.9f});
    world.oracle->says[1] = {{{2, 5}, 0.9f}, {{2, 9}, 0.5f}};
    world.begin_step();
    ASSERT_EQ(world.source->started.size(), 2u);
    const std::vector<int> first = world.source->started;
    EXPECT_EQ(std::count(first.begin(), first.end(), world.table->number({2, 5})), 0);
    world.routed(1, {0});
    world.prefetcher.advise(1);
    EXPECT_EQ(world.counted(2).cancelled, 3u) << "of 0 to 5 two are on their way, and one is still expected";
    for (int i = 0; i < 4; ++i) {
        world.arrive();
        world.prefetcher.go_on();
    }
    EXPECT_EQ(std::vector<int>(world.source->started.begin() + 2, world.source->started.end()),
              (std::vector<int>{world.table->number({2, 5}), world.table->number({2, 9})}));
}

TEST(Prefetcher, NothingStartsWhileSomebodyWaitsForARead) {
    World world;
    world.oracle->says[1] = {{{2, 0}, 0.9f}};
    world.begin_step();
    world.routed(1, {3});
    ASSERT_TRUE(world.cache.start_load({1, 3}, true));
    world.prefetcher.advise(1);
    world.prefetcher.go_on();
    EXPECT_FALSE(world.started({2, 0}));
    EXPECT_EQ(world.source->in_flight(), 1u);
    world.cache.wait();
    world.prefetcher.go_on();
    EXPECT_TRUE(world.started({2, 0}));
    EXPECT_TRUE(world.source->urgent.empty()) << "nobody waits for it";
    EXPECT_EQ(world.counted(2).cancelled, 0u);
}

TEST(Prefetcher, WhatIsExpectedOrPinnedNeverMakesRoom) {
    World world(3);
    const ExpertId expected{4, 0}, pinned{1, 1}, other{1, 2};
    for (const ExpertId id : {expected, pinned, other}) world.load(id);  // the least recent is expected
    const residency::Pin pin = world.cache.pin(pinned);
    world.oracle->says[-1] = {{{2, 5}, 0.9f}, {{2, 6}, 0.8f}, {expected, 0.3f}};
    world.begin_step();
    EXPECT_EQ(world.cache.state(other), State::absent);
    EXPECT_EQ(world.cache.state(expected), State::resident);
    EXPECT_EQ(world.cache.state(pinned), State::resident);
    EXPECT_EQ(world.cache.state({2, 5}), State::loading);
    EXPECT_EQ(world.counted(2).started, 1u);
    EXPECT_EQ(world.counted(2).cancelled, 1u) << "there was no room for the other one";
    world.arrive();
    world.prefetcher.go_on();
    EXPECT_EQ(world.cache.state({2, 6}), State::absent);
}

// Three slots, worked out by hand.
TEST(Prefetcher, CountsWhatBecameOfEveryRead) {
    World world(3);
    for (const int expert : {0, 1, 2}) world.load({1, expert});
    world.oracle->says[1] = {{{2, 0}, 0.9f}, {{2, 1}, 0.8f}, {{2, 2}, 0.7f}};
    world.begin_step();
    world.routed(1, {2});
    {
        const residency::Pin pin = world.cache.pin({1, 2});
        world.prefetcher.advise(1);  // 1.0 and 1.1 make room for 2.0 and 2.1; there is none for 2.2
        world.cache.wait();          // 2.0 comes, 2.1 is late
    }
    EXPECT_EQ(world.counted(2).started, 2u);
    EXPECT_EQ(world.counted(2).cancelled, 1u);
    world.routed(2, {0, 1, 5});
    const PrefetchCounters& second = world.counted(2);
    EXPECT_EQ(second.steps, 1u);
    EXPECT_EQ(second.needed, 3u);
    EXPECT_EQ(second.hinted, 3u);
    EXPECT_EQ(second.foreseen, 2u);
    EXPECT_EQ(second.used_bytes, kSmall);
    EXPECT_EQ(second.late_bytes, kSmall);
    EXPECT_EQ(second.wasted_bytes, 0u);
    EXPECT_EQ(second.regretted, 0u);
    world.arrive();
    world.prefetcher.end_step();

    // In the next step 1.0 is missed, which gave way to a hint; 1.1 came back meanwhile, so nobody regrets it.
    world.load({1, 1});
    world.begin_step();
    world.routed(1, {0, 1});
    EXPECT_EQ(second.regretted, 1u) << "by the layer that it gave way to";
    EXPECT_EQ(world.counted(1).regretted, 0u);
    world.prefetcher.abort_step();
    world.begin_step();
    world.routed(1, {0});
    EXPECT_EQ(second.regretted, 1u) << "once";
    EXPECT_EQ(world.counted(1).steps, 3u);
    EXPECT_EQ(world.counted(1).hinted, 0u);
}

TEST(Prefetcher, AReadThatIsGoneBeforeItsTurnWasInVain) {
    World world(2);
    world.oracle->says[-1] = {{{4, 0}, 0.9f}};
    world.begin_step();
    world.arrive();
    ASSERT_EQ(world.cache.state({4, 0}), State::resident);
    for (const int expert : {1, 2}) world.load({1, expert});
    ASSERT_EQ(world.cache.state({4, 0}), State::absent);
    world.routed(4, {0});
    EXPECT_EQ(world.counted(4).wasted_bytes, kSmall);
    EXPECT_EQ(world.counted(4).used_bytes, 0u);
    EXPECT_EQ(world.counted(4).foreseen, 1u) << "it was right all the same";
}

TEST(Prefetcher, WhatWasReadForAStepIsInVainWhenTheStepEnds) {
    World world;
    world.oracle->says[-1] = {{{4, 0}, 0.9f}};
    world.begin_step();
    world.prefetcher.end_step();
    EXPECT_EQ(world.counted(4).wasted_bytes, kSmall);
    world.arrive();
    world.oracle->says.clear();
    world.begin_step();
    world.routed(4, {0});
    EXPECT_EQ(world.counted(4).wasted_bytes, kSmall);
    EXPECT_EQ(world.counted(4).used_bytes, 0u) << "each read is counted once";
}

TEST(Prefetcher, NoMoreIsQueuedThanTheDiskReadsUntilTheLayersTurn) {
    World world;
    world.costs = LiveCosts(measured(), kSmall);
    world.costs.layer(4096 * 5 / 2, 0);  // two and a half reads
    // Before the first layer there is one layer's time until the first, two until the second.
    for (std::int32_t expert = 0; expert < 10; ++expert) {
        world.oracle->says[-1].push_back({{1, expert}, 0.9f});
        world.oracle->says[-1].push_back({{2, expert}, 0.5f});
        world.oracle->says[-1].push_back({{4, expert}, 0.3f});
    }
    world.begin_step();
    world.arrive();
    world.prefetcher.go_on();
    EXPECT_EQ(world.counted(1).started, 2u);
    EXPECT_EQ(world.counted(2).started, 3u) << "five in all";
    EXPECT_EQ(world.counted(4).started, 2u) << "seven in all";
    EXPECT_EQ(world.source->started.size(), 7u);
}

TEST(Prefetcher, OfEqualHintsTheNearerLayersComesFirst) {
    World world(12, kLarge);
    world.oracle->says[-1] = {{{2, 7}, 0.9f}, {{1, 4}, 0.9f}, {{4, 0}, 0.9f}, {{2, 3}, 0.9f}};
    world.begin_step();
    for (int i = 0; i < 3; ++i) {
        world.arrive();
        world.prefetcher.go_on();
    }
    std::vector<ExpertId> order;
    for (const int number : world.source->started) order.push_back(world.table->id(number));
    EXPECT_EQ(order, (std::vector<ExpertId>{{1, 4}, {2, 3}, {2, 7}, {4, 0}}));
}

TEST(Prefetcher, BeforeAnythingWasMeasuredAFewAreRead) {
    World world;
    world.costs = LiveCosts(measured(), kSmall);
    for (std::int32_t expert = 0; expert < 10; ++expert)
        world.oracle->says[-1].push_back({{1, expert}, 0.5f + 0.01f * static_cast<float>(expert)});
    world.begin_step();
    world.arrive();
    world.prefetcher.go_on();
    EXPECT_EQ(world.source->started, (std::vector<int>{9, 8})) << "the likeliest";
}

TEST(Prefetcher, WhoIsAlwaysRightStaysOn) {
    World world;
    for (int step = 0; step < 300; ++step) {
        const int right = step % kExperts;
        world.oracle->says[1] = {{{2, right}, 0.9f}, {{2, (right + 1) % kExperts}, 0.9f}};
        world.begin_step();
        world.run(1, {0});
        world.run(2, {right, (right + 1) % kExperts});
        world.prefetcher.end_step();
        ASSERT_FALSE(world.counted(2).off);
    }
    EXPECT_EQ(world.counted(2).times_off, 0u);
    EXPECT_EQ(world.counted(2).foreseen, 600u);
    EXPECT_EQ(world.counted(2).hinted, 600u);
    EXPECT_EQ(world.counted(2).wasted_bytes, 0u);
    EXPECT_EQ(world.counted(2).used_bytes, kExperts * kSmall) << "then all of them are there";
}

TEST(Prefetcher, WhoIsAlwaysWrongIsOffAtOnceAndHeardAgainLater) {
    World world;
    int step = 0;
    const auto play = [&](bool right) {
        const int used = step++ % 8;
        const int said = right ? used : 8 + used;
        world.oracle->says[1] = {{{2, said}, 0.9f}};
        world.begin_step();
        world.run(1, {0});
        world.run(2, {used});
        world.prefetcher.end_step();
        // Nothing of that layer stays, so every hint is of an absent record.
        for (int expert = 0; expert < 2 * kExperts; ++expert)
            if (const ExpertId id{expert < kExperts ? 1 : 4, expert % kExperts}; world.cache.state(id) == State::absent)
                world.load(id);
    };
    ASSERT_TRUE(world.cache.set_limit(2 * kExperts * kSmall));
    while (!world.counted(2).off) {
        play(false);
        ASSERT_LE(step, 64);
    }
    EXPECT_GT(world.counted(2).wasted_bytes, 0u);
    const std::uint64_t started = world.counted(2).started;
    const int off_at = step;
    while (world.counted(2).off) {
        play(true);
        ASSERT_LE(step - off_at, 2000);
        if (world.counted(2).off) {
            ASSERT_EQ(world.counted(2).started, started) << "nothing is read meanwhile";
        }
    }
    EXPECT_GT(step - off_at, 500) << "it is left alone for a good while";
    EXPECT_EQ(world.counted(2).times_off, 1u);
    for (int i = 0; i < 20; ++i) play(true);
    EXPECT_GT(world.counted(2).started, started);
    EXPECT_FALSE(world.counted(2).off);
    EXPECT_FALSE(world.counted(1).off);
    EXPECT_FALSE(world.counted(4).off) << "each layer by itself";
}

TEST(Prefetcher, AnAbortedStepLeavesNothing) {
    World world(12, kLarge);
    for (std::int32_t expert = 0; expert < 6; ++expert) world.oracle->says[-1].push_back({{2, expert}, 0.9f});
    world.begin_step();
    world.prefetcher.abort_step();
    EXPECT_EQ(world.counted(2).cancelled, 4u);
    EXPECT_EQ(world.counted(2).wasted_bytes, 2 * kLarge);
    world.arrive();
    world.prefetcher.go_on();
    EXPECT_EQ(world.source->started.size(), 2u) << "nothing is queued";
    world.oracle->says.clear();
    world.begin_step();
    world.routed(2, {0});
    EXPECT_EQ(world.counted(2).hinted, 0u) << "nothing is expected";
    EXPECT_EQ(world.counted(2).used_bytes, 0u);
    EXPECT_EQ(world.counted(2).steps, 1u);
    // What was expected may make room again.
    World small(2);
    small.load({1, 0});
    small.load({1, 1});
    small.oracle->says[-1] = {{{1, 0}, 0.9f}, {{1, 1}, 0.9f}};
    small.begin_step();
    small.prefetcher.abort_step();
    small.oracle->says[-1] = {{{2, 0}, 0.9f}};
    small.begin_step();
    EXPECT_EQ(small.cache.state({2, 0}), State::loading);
}

TEST(Prefetcher, ThePredictorHearsWhatHappensAndWhatIsThere) {
    World world;
    world.load({1, 3});
    EXPECT_EQ(world.prefetcher.lookahead(), 2);
    EXPECT_EQ(world.prefetcher.name(), "oracle");
    world.begin_step();
    ASSERT_TRUE(world.cache.start_load({1, 4}, true));
    EXPECT_TRUE(world.oracle->outlook.resident({1, 3}));
    EXPECT_TRUE(world.oracle->outlook.resident({1, 4})) << "it is on its way";
    EXPECT_FALSE(world.oracle->outlook.resident({1, 5}));
    EXPECT_DOUBLE_EQ(world.oracle->outlook.costs.ssd, 4096);
    world.routed(1, {4});
    const policy::ScoredExpert best[] = {{9, 0.5f}, {8, 0.25f}};
    world.prefetcher.ahead(1, 2, {best, 1, 2, 1});
    world.prefetcher.advise(1);
    world.prefetcher.token(7);
    world.prefetcher.used({1, 4});
    world.prefetcher.end_step();
    EXPECT_EQ(world.oracle->heard, (std::vector<std::string>{"step of 1 from 7", "layer 1 chose 4 for 1",
                                                             "layer 1 thinks of 2: 9", "token 7", "used 1.4"}));
    world.arrive();
}

// Rows that come in several submits are no step's routing; what does not exist is for the runner to refuse.
TEST(Prefetcher, PredictorsHearOfWholeLayersOnly) {
    World world;
    const std::int32_t tokens[] = {5, 6};
    world.oracle->says[-1] = {{{1, 3}, 0.9f}};
    world.prefetcher.begin_step(tokens);
    world.arrive();
    const std::size_t before = world.oracle->heard.size();
    world.prefetcher.routed(1, {{}, 0, 2});
    EXPECT_EQ(world.counted(1).steps, 0u) << "no rows are no routing";
    world.routed(1, {2});
    world.routed(1, {3});
    EXPECT_EQ(world.oracle->heard.size(), before);
    for (const std::int32_t wrong : {-1, kExperts}) EXPECT_THROW(world.routed(2, {0, wrong}), Error);
    EXPECT_EQ(world.counted(2).steps, 0u);
    EXPECT_EQ(world.oracle->heard.size(), before);
    const std::int32_t both[] = {0, 1};
    world.prefetcher.routed(4, {both, 2, 1});
    EXPECT_EQ(world.oracle->heard.back(), "layer 4 chose 0 for 2");
}

}  // namespace
}  // namespace moestro::exec
