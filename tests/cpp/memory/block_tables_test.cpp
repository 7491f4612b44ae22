#include "memory/block_tables.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "support/refusal.h"

namespace moestro::memory {
namespace {

using testing::refusal;

struct NothingToLend final : Lender {
    bool lend(std::size_t) override { return false; }
    void returned() override {}
    std::size_t can_lend() const override { return 0; }
};

struct World {
    NothingToLend lender;
    KvPool pool{{kernels::KvType::f32, 1, 16, 16}, 3, std::make_shared<Ledger>(std::size_t{1} << 20), lender};
};

TEST(BlockTables, PointersAreTheLayersPartOfEveryBlock) {
    World world;
    const BlockId first = world.pool.allocate(), second = world.pool.allocate();
    std::vector<std::byte*> pointers;
    const std::vector<BlockId> table{second, kNoBlock, first};
    table_pointers(world.pool, 2, table, pointers);
    EXPECT_EQ(pointers,
              (std::vector<std::byte*>{world.pool.layer_data(second, 2), nullptr, world.pool.layer_data(first, 2)}));
    block_pointers(world.pool, 1, std::vector<BlockId>{first}, pointers);
    EXPECT_EQ(pointers, (std::vector<std::byte*>{world.pool.layer_data(first, 1)}));
}

TEST(BlockTables, BlocksMustBeInUse) {
    World world;
    const std::vector<BlockId> unknown{9}, none{kNoBlock};
    std::vector<std::byte*> pointers;
    EXPECT_NE(refusal([&] { table_pointers(world.pool, 0, unknown, pointers); }).find("KV block 9"), std::string::npos);
    EXPECT_NE(refusal([&] { block_pointers(world.pool, 0, none, pointers); }).find("KV block -1"), std::string::npos);
    EXPECT_EQ(refusal([&] { require_layer(world.pool, 2); }), "accepted");
    EXPECT_NE(refusal([&] { require_layer(world.pool, 3); }).find("0 to 2; got 3"), std::string::npos);
    EXPECT_NE(refusal([&] { require_layer(world.pool, -1); }).find("got -1"), std::string::npos);
}

TEST(BlockTables, EveryRowsBlocksLieInsideTheTables) {
    const std::vector<std::int64_t> positions{0, 128};
    const std::vector<BlockId> tables{4, 5, 6, 7};
    const auto with = [&](std::int64_t begin) {
        return refusal([&] {
            const std::vector<std::int64_t> begins{3, begin};
            require_inside({positions, tables, begins});
        });
    };
    EXPECT_EQ(with(0), "accepted");
    EXPECT_EQ(with(1), "accepted");
    for (const std::int64_t outside : {std::int64_t{2}, std::int64_t{4}, std::int64_t{-1}, INT64_MAX, INT64_MIN})
        EXPECT_NE(with(outside).find("row 1 at position 128 needs 3 blocks"), std::string::npos) << outside;
}

TEST(BlockTables, AWindowMayLeaveBlocksBehind) {
    const std::vector<std::int64_t> positions{130}, begins{1};
    const std::vector<BlockId> tables{kNoBlock, kNoBlock, 5, 6};
    const BlockTables batch{positions, tables, begins};
    EXPECT_EQ(refusal([&] { require_visible(batch, {.window = 67}); }), "accepted") << "keys 64 to 130";
    EXPECT_NE(refusal([&] { require_visible(batch, {.window = 68}); }).find("row 0 at position 130 sees block 0"),
              std::string::npos);
    EXPECT_NE(refusal([&] { require_visible(batch, {}); }).find("sees block 0"), std::string::npos);
}

TEST(BlockTables, PositionsCountFromZero) {
    EXPECT_EQ(refusal([] { require_positions(std::vector<std::int64_t>{0, 5}); }), "accepted");
    EXPECT_NE(refusal([] {
                  require_positions(std::vector<std::int64_t>{0, -1});
              }).find("row 1 has -1"),
              std::string::npos);
}

}  // namespace
}  // namespace moestro::memory
