#include "memory/slot_pool.h"

#include <gtest/gtest.h>

#include <climits>
#include <cstring>
#include <map>
#include <random>

#include "base/error.h"
#include "base/types.h"

namespace moestro::memory {
namespace {

constexpr std::size_t kPage = kPageBytes;

std::shared_ptr<Ledger> make_ledger(std::size_t pages) {
    return std::make_shared<Ledger>(pages * kPage);
}

TEST(SlotPool, TheLimitIsReservedWhole) {
    auto ledger = make_ledger(100);
    {
        SlotPool pool(ledger, {{2 * kPage, 50}}, 10 * kPage, INT_MAX);
        EXPECT_EQ(ledger->held(), 10 * kPage);
        pool.check_integrity();
    }
    EXPECT_EQ(ledger->held(), 0u);
    EXPECT_THROW(SlotPool(ledger, {{2 * kPage, 50}}, 101 * kPage, INT_MAX), Error);
    EXPECT_EQ(ledger->held(), 0u);
}

TEST(SlotPool, GivesNoMoreThanTheLimitAndReuses) {
    SlotPool pool(make_ledger(100), {{2 * kPage, 50}}, 7 * kPage, INT_MAX);
    std::vector<Slot> taken;
    while (auto slot = pool.take(0)) taken.push_back(*slot);
    EXPECT_EQ(taken.size(), 3u);
    EXPECT_FALSE(pool.would_fit(0, 0, 0));
    EXPECT_TRUE(pool.would_fit(0, 2 * kPage, 1));
    std::byte* const address = taken.back().data;
    pool.give(taken.back());
    EXPECT_TRUE(pool.would_fit(0, 0, 0));
    EXPECT_EQ(pool.take(0)->data, address);
}

TEST(SlotPool, CountsSlotsToo) {
    SlotPool pool(make_ledger(100), {{kPage, 50}}, 50 * kPage, 2);
    const auto first = pool.take(0), second = pool.take(0);
    ASSERT_TRUE(first && second);
    EXPECT_FALSE(pool.take(0));
    pool.give(*first);
    EXPECT_TRUE(pool.take(0));
}

TEST(SlotPool, NeverMoreSlotsThanRecords) {
    SlotPool pool(make_ledger(100), {{kPage, 3}}, 50 * kPage, INT_MAX);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(pool.take(0));
    EXPECT_FALSE(pool.take(0));
}

TEST(SlotPool, SpareMemoryOfOneClassServesAnother) {
    SlotPool pool(make_ledger(100), {{kPage, 50}, {3 * kPage, 50}}, 6 * kPage, INT_MAX);
    std::vector<Slot> small;
    for (int i = 0; i < 6; ++i) small.push_back(*pool.take(0));
    EXPECT_FALSE(pool.take(1));
    for (int i = 0; i < 3; ++i) pool.give(small[static_cast<std::size_t>(i)]);
    const auto large = pool.take(1);
    ASSERT_TRUE(large);
    std::memset(large->data, 1, 3 * kPage);
    pool.check_integrity();
    EXPECT_FALSE(pool.take(0)) << "its memory went to the other class";
    pool.give(*large);
    EXPECT_TRUE(pool.take(0));
    pool.check_integrity();
}

TEST(SlotPool, GivenUpMemoryReadsAsZeros) {
    SlotPool pool(make_ledger(100), {{kPage, 1}, {kPage * 2, 1}}, 2 * kPage, INT_MAX);
    const auto small = pool.take(0);
    std::memset(small->data, 7, kPage);
    pool.give(*small);
    const auto large = pool.take(1);
    ASSERT_TRUE(large);
    pool.give(*large);
    const auto again = pool.take(0);
    ASSERT_TRUE(again);
    EXPECT_EQ(again->data, small->data) << "an index keeps its address";
    EXPECT_EQ(again->data[100], std::byte{0}) << "its pages went back to the system in between";
}

TEST(SlotPool, ShrinksAndGrowsWhileRunning) {
    auto ledger = make_ledger(10);
    SlotPool pool(ledger, {{kPage, 50}}, 8 * kPage, INT_MAX);
    const auto first = pool.take(0), second = pool.take(0);
    pool.give(*second);
    EXPECT_TRUE(pool.set_limit(kPage)) << "a spare slot is given up";
    EXPECT_EQ(ledger->held(), kPage);
    EXPECT_FALSE(pool.set_limit(kPage - 1)) << "one is in use";
    EXPECT_EQ(pool.limit(), kPage);
    ledger->take("kv", 5 * kPage);
    EXPECT_FALSE(pool.set_limit(6 * kPage)) << "the budget has no room";
    EXPECT_TRUE(pool.set_limit(5 * kPage));
    EXPECT_TRUE(pool.take(0));
    pool.check_integrity();
    pool.give(*first);
}

// A simulated cache may be larger than the machine: as if it had memory, but for the memory.
TEST(SlotPool, SlotsWithoutMemoryTellThingsApart) {
    constexpr std::size_t kHuge = std::size_t{1} << 36;
    SlotPool pool(std::make_shared<Ledger>(8 * kHuge), {{kHuge, 6}, {2 * kHuge, 2}}, 5 * kHuge, INT_MAX,
                  slots_without_memory());
    std::vector<Slot> taken;
    while (auto slot = pool.take(0)) taken.push_back(*slot);
    ASSERT_EQ(taken.size(), 5u);
    for (std::size_t i = 1; i < taken.size(); ++i)
        EXPECT_EQ(taken[i].data - taken[i - 1].data, static_cast<std::ptrdiff_t>(kHuge));
    EXPECT_FALSE(pool.take(1));
    for (const int i : {0, 1}) pool.give(taken[static_cast<std::size_t>(i)]);
    const auto large = pool.take(1);
    ASSERT_TRUE(large) << "the room of two small ones";
    EXPECT_EQ(pool.bytes_in_use(), 5 * kHuge);
    EXPECT_FALSE(pool.set_limit(4 * kHuge));
    pool.give(*large);
    EXPECT_TRUE(pool.set_limit(3 * kHuge));
    pool.check_integrity();
}

TEST(SlotPool, ASlotIsGivenBackOnce) {
    SlotPool pool(make_ledger(10), {{kPage, 5}}, 5 * kPage, INT_MAX);
    const auto slot = pool.take(0);
    pool.give(*slot);
    EXPECT_THROW(pool.give(*slot), Error);
}

TEST(SlotPool, RandomUseNeverOverlapsOrOverspends) {
    auto ledger = make_ledger(64);
    const std::vector<SlotClass> classes{{kPage, 30}, {2 * kPage, 20}, {5 * kPage, 10}};
    SlotPool pool(ledger, classes, 40 * kPage, 17);
    std::mt19937 random(3);
    std::map<std::byte*, Slot> taken;
    for (int step = 0; step < 5000; ++step) {
        const int size_class = static_cast<int>(random() % 3);
        if (random() % 20 == 0) {
            pool.set_limit((random() % 64) * kPage);
        } else if (!taken.empty() && random() % 2 == 0) {
            const auto at = std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
            pool.give(at->second);
            taken.erase(at);
        } else {
            const bool fits = pool.would_fit(size_class, 0, 0);
            const auto slot = pool.take(size_class);
            if (slot) {
                EXPECT_TRUE(fits);
            }
            if (slot) {
                EXPECT_TRUE(taken.emplace(slot->data, *slot).second);
            }
        }
        std::size_t bytes = 0;
        const std::byte* end = nullptr;
        for (const auto& [data, slot] : taken) {
            EXPECT_GE(data, end) << "slots overlap";
            bytes += pool.slot_bytes(slot.size_class);
            end = data + pool.slot_bytes(slot.size_class);
        }
        ASSERT_EQ(bytes, pool.bytes_in_use());
        ASSERT_LE(bytes, pool.limit());
        ASSERT_EQ(ledger->held(), pool.limit());
        ASSERT_NO_THROW(pool.check_integrity());
    }
}

}  // namespace
}  // namespace moestro::memory
