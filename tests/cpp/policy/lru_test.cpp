#include "policy/lru.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/error.h"

namespace moestro::policy {
namespace {

// The definition: everything has a time stamp, the oldest evictable one goes.
class Naive {
  public:
    void touch(ExpertId id) { stamp_[id] = ++now_; }
    void use(ExpertId id) {
        if (stamp_.contains(id)) touch(id);
    }
    void evict(ExpertId id) { stamp_.erase(id); }
    bool has(ExpertId id) const { return stamp_.contains(id); }
    template <class Evictable>
    std::optional<ExpertId> victim(Evictable&& evictable) const {
        std::optional<ExpertId> oldest;
        for (const auto& [id, stamp] : stamp_)
            if (evictable(id) && (!oldest || stamp < stamp_.at(*oldest))) oldest = id;
        return oldest;
    }

  private:
    std::map<ExpertId, int> stamp_;
    int now_ = 0;
};

TEST(Lru, EqualsTheDefinitionUnderRandomUse) {
    const auto lru = make_eviction("lru");
    Naive naive;
    std::mt19937 random(11);
    for (int step = 0; step < 20000; ++step) {
        const ExpertId id{static_cast<int>(random() % 5), static_cast<int>(random() % 9)};
        const unsigned mask = random() % 7;
        const auto evictable = [&](ExpertId one) {
            return (static_cast<unsigned>(one.layer * 9 + one.expert) % 7) != mask;
        };
        switch (random() % 4) {
            case 0:
                if (naive.has(id)) break;
                naive.touch(id);
                lru->on_insert(id);
                break;
            case 1:
                if (!naive.has(id)) break;
                naive.evict(id);
                lru->on_evict(id);
                break;
            default:
                naive.use(id);
                lru->on_use(id);
        }
        ASSERT_EQ(lru->victim(evictable, std::nullopt), naive.victim(evictable)) << "step " << step;
    }
}

TEST(Lru, NothingToGiveUp) {
    const auto lru = make_lru({});
    const auto any = [](ExpertId) { return true; };
    EXPECT_EQ(lru->victim(any, std::nullopt), std::nullopt);
    lru->on_use({1, 2});
    EXPECT_EQ(lru->victim(any, std::nullopt), std::nullopt)
        << "using an expert that is not resident does not make it so";
    lru->on_insert({1, 2});
    EXPECT_EQ(lru->victim([](ExpertId) { return false; }, std::nullopt), std::nullopt);
    EXPECT_THROW(lru->on_insert({1, 2}), Error);
    EXPECT_THROW(lru->on_evict({1, 3}), Error);
}

TEST(Eviction, NamesAreListedAndUnknownOnesRefused) {
    for (const std::string_view name : eviction_names()) EXPECT_EQ(make_eviction(name)->name(), name);
    try {
        make_eviction("oldest");
        ADD_FAILURE() << "an unknown policy was made";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage);
        EXPECT_NE(std::string(error.what()).find("lru"), std::string::npos);
    }
}

}  // namespace
}  // namespace moestro::policy
