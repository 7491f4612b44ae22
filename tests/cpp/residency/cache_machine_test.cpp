// Everything that can be asked of the cache, at random, under every policy: nothing is lost, doubled or overspent, what
// is pinned does not change, and what gave way to a hint was free to go.
#include <gtest/gtest.h>

#include <climits>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "residency/expert_cache.h"
#include "residency/wave.h"
#include "support/fake_source.h"

namespace moestro::residency {
namespace {

using testing::FakeSource;

constexpr int kOperations = 10000;
constexpr int kExperts = 6;

// Three layers, the second of larger records.
const std::vector<store::ExpertTable::Layer> kLayers{
    {1, kExperts, kPageBytes}, {2, kExperts, 3 * kPageBytes}, {5, kExperts, kPageBytes}};

class Machine {
  public:
    Machine(const std::string& policy, unsigned seed)
        : random_(seed),
          table_(std::make_shared<const store::ExpertTable>(kLayers)),
          ledger_(std::make_shared<memory::Ledger>(40 * kPageBytes)),
          source_(new FakeSource(FakeSource::Order::shuffled, seed + 1)),
          cache_(table_, ledger_, 18 * kPageBytes, 11, std::unique_ptr<FakeSource>(source_),
                 policy::make_eviction(policy, settings(seed + 2)), clock_) {}

    struct Seen {
        int failed = 0, refused = 0, prefetched = 0, denied = 0, gave_way = 0, shrunk = 0, grown = 0, kept = 0,
            cancelled = 0, disarmed = 0, computed = 0;
    };

    void operate() {
        switch (random_() % 16) {
            case 0:
            case 1:
            case 2:
                prefetch();
                break;
            case 3:
            case 4:
                demand();
                break;
            case 5:
            case 6:
                ask();
                break;
            case 7:
            case 8:
            case 9:
                compute();
                break;
            case 10:
                give_up();
                break;
            case 11:
                feed_back();
                break;
            case 12:
                move_limit();
                break;
            case 13:
                source_->failures_in_ten = random_() % 3 == 0 ? 3 : 0;
                break;
            default:
                clock_.advance(static_cast<Nanos>(random_() % 100));
                source_->per_poll = random_() % 3;
                random_() % 2 == 0 && cache_.loading() > 0 ? cache_.wait() : cache_.poll();
        }
    }

    void check() {
        ASSERT_NO_THROW(cache_.check_integrity());
        ASSERT_NO_THROW(ledger_->check_integrity());
        ASSERT_EQ(ledger_->held(), cache_.limit());
        int urgent = 0;
        for (int number = 0; number < table_->experts(); ++number) {
            const ExpertId id = table_->id(number);
            ASSERT_EQ(cache_.state(id) == State::loading, source_->flying(number));
            if (cache_.state(id) != State::resident) continue;
            const Pin pin = cache_.pin(id);
            ASSERT_EQ(FakeSource::owner(pin.data()), number) << "another record's bytes";
        }
        for (const int number : source_->urgent) urgent += source_->flying(number);
        ASSERT_EQ(cache_.loading_urgently(), urgent);
        for (const auto& [id, held] : pins_) {
            ASSERT_NE(held.pin.state(), State::absent);
            if (held.pin.state() != State::resident) continue;
            if (!held.data) held.data = held.pin.data();
            ASSERT_EQ(held.pin.data(), held.data) << "a pinned record moved";
        }
        for (const Wave& wave : waves_)
            for (int item = 0; item < wave.size(); ++item)
                if (wave.stage(item) == Wave::Stage::pinned) {
                    ASSERT_NE(wave.pin(item).state(), State::absent);
                }
    }

    // Everybody goes; then everything can go.
    void end() {
        for (Wave& wave : waves_) wave.end();
        pins_.clear();
        while (cache_.loading() > 0) cache_.wait();
        ASSERT_NO_FATAL_FAILURE(check());
        for (int number = 0; number < table_->experts(); ++number) {
            const State state = cache_.state(table_->id(number));
            ASSERT_TRUE(state == State::resident || state == State::absent);
        }
        ASSERT_TRUE(cache_.set_limit(cache_.minimum())) << "nothing is pinned any more";
        ASSERT_NO_FATAL_FAILURE(check());
    }

    const Seen& seen() const { return seen_; }
    CacheCounters counters() const { return cache_.counters(); }

  private:
    struct Held {
        Pin pin;
        mutable const std::byte* data = nullptr;  // where it was first seen
    };

    static policy::EvictionSettings settings(unsigned seed) {
        std::mt19937 random(seed);
        policy::EvictionSettings made;
        for (const auto& layer : kLayers) made.experts.layers.push_back({layer.layer, layer.experts});
        for (int i = 0; i < made.experts.experts(); ++i) made.frequencies.push_back(static_cast<double>(random() % 9));
        return made;
    }

    ExpertId any() { return table_->id(static_cast<int>(random_() % static_cast<unsigned>(table_->experts()))); }
    std::vector<State> states() const {
        std::vector<State> all;
        for (int number = 0; number < table_->experts(); ++number) all.push_back(cache_.state(table_->id(number)));
        return all;
    }
    bool pinned(ExpertId id) const {
        if (pins_.contains(id)) return true;
        for (const Wave& wave : waves_)
            for (int item = 0; item < wave.size(); ++item)
                if (wave.id(item) == id && wave.stage(item) == Wave::Stage::pinned) return true;
        return false;
    }

    void prefetch() {
        const ExpertId id = any();
        if (cache_.state(id) != State::absent) return;
        std::set<ExpertId> spare;
        const unsigned share = random_() % 4;
        for (int number = 0; number < table_->experts(); ++number)
            if (random_() % 3 < share) spare.insert(table_->id(number));
        const std::vector<State> before = states();
        std::vector<ExpertId> evicted;
        const bool started = cache_.start_prefetch(
            id, [&](ExpertId one) { return spare.contains(one); }, evicted);
        ++(started ? seen_.prefetched : seen_.denied);
        seen_.gave_way += static_cast<int>(evicted.size());
        const std::set<ExpertId> gone(evicted.begin(), evicted.end());
        ASSERT_EQ(gone.size(), evicted.size());
        for (const ExpertId one : evicted) {
            ASSERT_TRUE(spare.contains(one));
            ASSERT_FALSE(pinned(one));
            ASSERT_EQ(before[static_cast<std::size_t>(table_->number(one))], State::resident);
        }
        for (int number = 0; number < table_->experts(); ++number) {
            const ExpertId one = table_->id(number);
            const State expected = one == id            ? (started ? State::loading : State::absent)
                                   : gone.contains(one) ? State::absent
                                                        : before[static_cast<std::size_t>(number)];
            ASSERT_EQ(cache_.state(one), expected);
        }
    }
    void demand() {
        const ExpertId id = any();
        if (cache_.state(id) == State::absent) {
            const std::vector<State> before = states();
            if (!cache_.start_load(id, random_() % 2 == 0)) {
                ++seen_.refused;
                ASSERT_EQ(states(), before) << "refused, and something changed";
                return;
            }
        }
        if (pins_.size() < 4) pins_.emplace(id, Held{cache_.pin(id)});
    }
    void ask() {
        Wave& wave = waves_[random_() % 3];
        if (wave.left() > 0) return wave.acquire();
        const std::size_t position = random_() % kLayers.size();
        std::vector<ExpertId> ids;
        for (std::int32_t expert = 0; expert < kExperts; ++expert)
            if (random_() % 2 == 0) ids.push_back({kLayers[position].layer, expert});
        wave.begin(cache_, ids);
    }
    void compute() {
        Wave& wave = waves_[random_() % 3];
        for (int item = 0; item < wave.size(); ++item) {
            if (wave.stage(item) != Wave::Stage::pinned) continue;
            const State state = wave.pin(item).state();
            if (state == State::failed) {
                ++seen_.failed;
                wave.end();
                return;
            }
            if (state != State::resident) continue;
            ASSERT_EQ(FakeSource::owner(wave.pin(item).data()), table_->number(wave.id(item)));
            wave.done(item);
            ++seen_.computed;
            return;
        }
    }
    void give_up() {
        if (!pins_.empty() && random_() % 2 == 0) {
            pins_.erase(std::next(pins_.begin(), static_cast<std::ptrdiff_t>(random_() % pins_.size())));
        } else if (random_() % 2 == 0) {
            seen_.disarmed += waves_[random_() % 3].disarm();
        } else {
            Wave& wave = waves_[random_() % 3];
            seen_.cancelled += wave.left() > 0;
            wave.end();
        }
    }
    void feed_back() {
        cache_.token();
        const ExpertId id = any();
        const policy::ScoredExpert best[] = {{id.expert, 0.5f}, {(id.expert + 1) % kExperts, 0.25f}};
        if (cache_.wants_scores()) cache_.scored(id.layer, best);
        cache_.used(id);
    }
    void move_limit() {
        const std::size_t before = cache_.limit(), wanted = (random_() % 45) * kPageBytes;
        const bool moved = cache_.set_limit(wanted);
        ASSERT_EQ(cache_.limit(), moved ? wanted : before);
        if (!moved)
            ++seen_.kept;
        else if (wanted != before)
            ++(wanted < before ? seen_.shrunk : seen_.grown);
    }

    std::mt19937 random_;
    VirtualClock clock_;
    const std::shared_ptr<const store::ExpertTable> table_;
    const std::shared_ptr<memory::Ledger> ledger_;
    FakeSource* const source_;
    ExpertCache cache_;
    Wave waves_[3];
    std::multimap<ExpertId, Held> pins_;
    Seen seen_;
};

class CacheMachine : public ::testing::TestWithParam<std::string_view> {};

TEST_P(CacheMachine, RandomOperationsKeepItConsistent) {
    Machine machine(std::string(GetParam()), 29);
    for (int operation = 0; operation < kOperations; ++operation) {
        ASSERT_NO_FATAL_FAILURE(machine.operate()) << "operation " << operation;
        ASSERT_NO_FATAL_FAILURE(machine.check()) << "operation " << operation;
    }
    ASSERT_NO_FATAL_FAILURE(machine.end());
    const Machine::Seen& seen = machine.seen();
    for (const int count : {seen.failed, seen.refused, seen.prefetched, seen.denied, seen.gave_way, seen.shrunk,
                            seen.grown, seen.kept, seen.cancelled, seen.disarmed, seen.computed})
        EXPECT_GT(count, 10);
    EXPECT_GT(machine.counters().evictions, 100u);
    EXPECT_GT(machine.counters().loads, machine.counters().evictions);
}

INSTANTIATE_TEST_SUITE_P(Every, CacheMachine, ::testing::ValuesIn(policy::eviction_names()),
                         [](const auto& name) { return std::string(name.param); });

}  // namespace
}  // namespace moestro::residency
