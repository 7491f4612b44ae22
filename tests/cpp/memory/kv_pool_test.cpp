#include "memory/kv_pool.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/types.h"

namespace moestro::memory {
namespace {

constexpr kernels::KvLayout kLayout{kernels::KvType::bf16, 2, 16, 16};
constexpr int kLayers = 3;

// Stands for the expert cache: holds an entry and gives it up in whole units, down to a minimum.
class Stock final : public Lender {
  public:
    Stock(std::shared_ptr<Ledger> ledger, std::size_t unit, std::size_t units, std::size_t least)
        : ledger_(ledger), unit_(unit), units_(units), least_(least), held_(ledger, "expert slots", unit * units) {}

    bool lend(std::size_t bytes) override {
        const std::size_t wanted = (bytes + unit_ - 1) / unit_;
        if (units_ - least_ < wanted) return false;
        units_ -= wanted;
        return held_.try_resize(units_ * unit_);
    }
    void returned() override {
        while (held_.try_resize((units_ + 1) * unit_)) ++units_;
    }
    std::size_t can_lend() const override { return (units_ - least_) * unit_; }
    std::size_t units() const { return units_; }

  private:
    std::shared_ptr<Ledger> ledger_;
    std::size_t unit_, units_, least_;
    Reservation held_;
};

struct World {
    std::size_t block = round_up(kLayout.block_bytes() * kLayers, kPageBytes);
    std::shared_ptr<Ledger> ledger = std::make_shared<Ledger>(block * 10 + 100);
    Stock stock{ledger, block / 2, 16, 2};  // 8 blocks' worth; 2 blocks are free
    KvPool pool{kLayout, kLayers, ledger, stock};
};

TEST(KvPool, TakesFromTheLenderWhenTheBudgetIsFullAndReturnsIt) {
    World world;
    EXPECT_EQ(world.pool.blocks_available(), 9);
    std::vector<BlockId> blocks;
    for (int i = 0; i < 9; ++i) {
        blocks.push_back(world.pool.allocate());
        world.ledger->check_integrity();
        EXPECT_EQ(world.pool.blocks_available(), 8 - i);
    }
    EXPECT_EQ(world.stock.units(), 2u);
    try {
        world.pool.allocate();
        ADD_FAILURE() << "the lender's minimum was taken";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::budget);
        EXPECT_NE(std::string(error.what()).find("KV block"), std::string::npos);
        EXPECT_NE(std::string(error.what()).find("expert slots"), std::string::npos);
    }
    EXPECT_EQ(world.pool.blocks_in_use(), 9) << "a refused block changes nothing";
    for (const BlockId block : blocks) world.pool.release(block);
    EXPECT_EQ(world.pool.blocks_in_use(), 0);
    EXPECT_EQ(world.stock.units(), 20u) << "the lender grew back";
    world.ledger->check_integrity();
}

TEST(KvPool, ReferencesKeepABlock) {
    World world;
    const BlockId block = world.pool.allocate();
    world.pool.share(block);
    EXPECT_EQ(world.pool.references(block), 2);
    world.pool.release(block);
    EXPECT_EQ(world.pool.references(block), 1);
    EXPECT_EQ(world.pool.blocks_in_use(), 1);
    world.pool.release(block);
    EXPECT_EQ(world.pool.references(block), 0);
    EXPECT_THROW(world.pool.release(block), Error);
    EXPECT_THROW(world.pool.share(block), Error);
    EXPECT_THROW(world.pool.layer_data(block, 0), Error);
    EXPECT_THROW(world.pool.layer_data(-1, 0), Error);
    EXPECT_THROW(world.pool.copy(0, 99), Error);
}

TEST(KvPool, BlocksAreZeroedDistinctAndCopied) {
    World world;
    const BlockId a = world.pool.allocate(), b = world.pool.allocate();
    for (int layer = 0; layer < kLayers; ++layer) {
        std::byte* data = world.pool.layer_data(a, layer);
        for (std::size_t i = 0; i < kLayout.block_bytes(); ++i) ASSERT_EQ(data[i], std::byte{0});
        std::memset(data, layer + 1, kLayout.block_bytes());
    }
    EXPECT_EQ(world.pool.layer_data(b, 1)[5], std::byte{0});
    world.pool.copy(a, b);
    for (int layer = 0; layer < kLayers; ++layer)
        EXPECT_EQ(std::memcmp(world.pool.layer_data(a, layer), world.pool.layer_data(b, layer), kLayout.block_bytes()),
                  0);
    EXPECT_THROW(world.pool.layer_data(a, kLayers), Error);
    world.pool.release(a);
    const BlockId again = world.pool.allocate();
    EXPECT_EQ(again, a) << "ids are used again";
    EXPECT_EQ(world.pool.layer_data(again, 0)[0], std::byte{0}) << "but not their contents";
}

TEST(KvPool, ItsEndGivesEverythingBack) {
    auto ledger = std::make_shared<Ledger>(1 << 20);
    Stock stock(ledger, kPageBytes, 2, 2);
    {
        KvPool pool(kLayout, kLayers, ledger, stock);
        pool.allocate();
        EXPECT_GT(ledger->held(), 2 * kPageBytes);
    }
    EXPECT_EQ(ledger->held(), 2 * kPageBytes);
}

TEST(KvPool, ShapesWithoutHeadsOrChannelsAreRefused) {
    World world;
    for (const auto& [heads, channels] : {std::pair{0, 16}, {2, 0}, {-1, -16}}) {
        const kernels::KvLayout layout{kernels::KvType::f32, heads, channels, channels};
        EXPECT_THROW(KvPool(layout, 1, world.ledger, world.stock), Error) << heads << " heads of " << channels;
    }
    EXPECT_THROW(KvPool(kLayout, 0, world.ledger, world.stock), Error);
}

}  // namespace
}  // namespace moestro::memory
