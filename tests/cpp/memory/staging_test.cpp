#include "memory/staging.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "base/error.h"
#include "base/types.h"

namespace moestro::memory {
namespace {

TEST(Staging, PiecesAreAlignedApartAndInsideTheRange) {
    auto ledger = std::make_shared<Ledger>(1 << 20);
    Staging staging(ledger, 16 * kPageBytes);
    EXPECT_EQ(ledger->held(), 16 * kPageBytes);
    std::mt19937 random(5);
    std::map<std::byte*, std::size_t> taken;
    int refused = 0;
    for (int step = 0; step < 5000; ++step) {
        if (!taken.empty() && random() % 2 == 0) {
            const auto at = std::next(taken.begin(), static_cast<std::ptrdiff_t>(random() % taken.size()));
            staging.give({at->first, at->second});
            taken.erase(at);
            continue;
        }
        const std::size_t bytes = 1 + random() % (6 * kPageBytes);
        const std::span<std::byte> piece = staging.take(bytes);
        if (piece.empty()) {
            ++refused;
            continue;
        }
        ASSERT_EQ(piece.size(), bytes);
        ASSERT_EQ(reinterpret_cast<std::uintptr_t>(piece.data()) % kPageBytes, 0u);
        taken.emplace(piece.data(), bytes);
        const std::byte* end = staging.memory().data();
        for (const auto& [data, size] : taken) {
            ASSERT_GE(data, end) << "pieces overlap";
            end = data + size;
        }
        ASSERT_LE(end, staging.memory().data() + staging.capacity());
    }
    EXPECT_GT(refused, 0);
    for (const auto& [data, size] : taken) staging.give({data, size});
    EXPECT_TRUE(staging.idle());
    EXPECT_EQ(staging.take(16 * kPageBytes).size(), 16 * kPageBytes) << "all back: one piece again";
}

TEST(Staging, UnknownPiecesAreABug) {
    Staging staging(std::make_shared<Ledger>(1 << 20), 4 * kPageBytes);
    const std::span<std::byte> piece = staging.take(100);
    staging.give(piece);
    EXPECT_THROW(staging.give(piece), Error);
    EXPECT_THROW(staging.take(5 * kPageBytes), Error);
}

TEST(Staging, NeedsRoomInTheBudget) {
    EXPECT_THROW(Staging(std::make_shared<Ledger>(kPageBytes), 2 * kPageBytes), Error);
}

}  // namespace
}  // namespace moestro::memory
