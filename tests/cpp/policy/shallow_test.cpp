// Fate's shares, and the ARC of its deeper layers against the algorithm as its paper prints it.
#include "policy/shallow.h"

#include <gtest/gtest.h>

#include <list>
#include <random>

#include "policy/arc.h"
#include "policy/replay.h"

namespace moestro::policy {
namespace {

ExpertSet layers(int count, int experts) {
    ExpertSet set;
    for (int layer = 0; layer < count; ++layer) set.layers.push_back({layer, experts});
    return set;
}

TEST(Shallow, Shares) {
    EXPECT_EQ(shallow_quotas(layers(6, 8), 48), (std::vector<int>(6, 8)));
    EXPECT_EQ(shallow_quotas(layers(6, 8), 40), (std::vector<int>{8, 8, 8, 8, 4, 4}));
    EXPECT_EQ(shallow_quotas(layers(7, 8), 40), (std::vector<int>{8, 8, 8, 8, 3, 3, 2}));
    EXPECT_EQ(shallow_quotas(layers(6, 8), 20), (std::vector<int>{8, 8, 4, 0, 0, 0})) << "in order, until it is full";
    EXPECT_EQ(shallow_quotas(layers(2, 8), 10), (std::vector<int>{8, 2}));
}

TEST(Shallow, FirstLayersStay) {
    const auto policy = make_eviction("shallow", {.experts = layers(6, 4)});
    testing::Replay replay(*policy, 20);  // 16 of the first four, 2 of each of the others
    std::mt19937 random(4);
    for (int token = 0; token < 300; ++token) {
        testing::Token one;
        for (int layer = 0; layer < 6; ++layer) one.push_back({layer, {static_cast<std::int32_t>(random() % 4)}});
        replay.run(one);
    }
    const std::int64_t misses = replay.misses;
    for (int layer = 0; layer < 4; ++layer)
        for (int expert = 0; expert < 4; ++expert) EXPECT_TRUE(replay.has({layer, expert})) << layer << ", " << expert;
    EXPECT_GT(misses, 16 + 4);
}

// Megiddo and Modha, figure 4: lists from the least to the most recent.
class Printed {
  public:
    explicit Printed(int c) : c_(c) {}

    bool access(int x) {
        if (take(t1_, x) || take(t2_, x)) {
            t2_.push_back(x);
            return true;
        }
        if (has(b1_, x)) {
            p_ = std::min<double>(c_, p_ + std::max(1.0, size(b2_) / size(b1_)));
            replace(x);
            take(b1_, x);
            t2_.push_back(x);
        } else if (has(b2_, x)) {
            p_ = std::max(0.0, p_ - std::max(1.0, size(b1_) / size(b2_)));
            replace(x);
            take(b2_, x);
            t2_.push_back(x);
        } else {
            if (size(t1_) + size(b1_) == c_) {
                if (size(t1_) < c_) {
                    b1_.pop_front();
                    replace(x);
                } else {
                    t1_.pop_front();
                }
            } else if (size(t1_) + size(t2_) + size(b1_) + size(b2_) >= c_) {
                if (size(t1_) + size(t2_) + size(b1_) + size(b2_) == 2 * c_) b2_.pop_front();
                replace(x);
            }
            t1_.push_back(x);
        }
        return false;
    }

  private:
    using List = std::list<int>;
    static double size(const List& list) { return static_cast<double>(list.size()); }
    static bool has(const List& list, int x) { return std::find(list.begin(), list.end(), x) != list.end(); }
    static bool take(List& list, int x) {
        const auto found = std::find(list.begin(), list.end(), x);
        if (found == list.end()) return false;
        list.erase(found);
        return true;
    }
    void replace(int x) {
        if (!t1_.empty() && ((has(b2_, x) && size(t1_) == p_) || size(t1_) > p_)) {
            b1_.push_back(t1_.front());
            t1_.pop_front();
        } else {
            b2_.push_back(t2_.front());
            t2_.pop_front();
        }
    }

    const double c_;
    double p_ = 0;
    List t1_, t2_, b1_, b2_;
};

TEST(Arc, MissesAsThePrintedOneDoes) {
    std::mt19937 random(9);
    for (const int capacity : {1, 2, 3, 5, 8}) {
        Arc arc;
        arc.set_capacity(capacity);
        Printed printed(capacity);
        std::set<int> resident;
        for (int step = 0; step < 4000; ++step) {
            // Runs over a few, and scans.
            const int x = step / 200 % 2 ? static_cast<int>(random() % 5) : static_cast<int>(random() % 12);
            const ExpertId id{0, x};
            const bool hit = resident.contains(x);
            ASSERT_EQ(printed.access(x), hit) << "capacity " << capacity << ", step " << step;
            if (!hit) {
                if (static_cast<int>(resident.size()) == capacity) {
                    const auto victim = arc.victim([](ExpertId) { return true; }, id);
                    arc.evict(victim.value());
                    resident.erase(victim->expert);
                }
                arc.insert(id);
                resident.insert(x);
            }
            arc.use(id);
        }
    }
}

}  // namespace
}  // namespace moestro::policy
