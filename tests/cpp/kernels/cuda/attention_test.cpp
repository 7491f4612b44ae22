// Attention and its blocks against the scalar table, to the bit.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>
#include <tuple>

#include "base/error.h"
#include "kernels/bits.h"
#include "kernels/cuda/on_device.h"
#include "kernels/ops.h"
#include "kernels/tables.h"

namespace moestro::kernels {
namespace {

using cuda::Fault;
using testing::expect_same_bits;
using testing::FaultWord;
using testing::in_every_order;
using testing::normal_floats;
using testing::OnDevice;
using testing::scalar_compute;

constexpr KvType kTypes[] = {KvType::f32, KvType::bf16, KvType::f16};

struct Case {
    KvLayout layout;
    int heads;
    Reach reach;
    bool sinks = false;
    float softcap = 0;
    std::vector<std::vector<std::int64_t>> sequences;  // positions of the rows of each

    std::string name() const {
        return "heads " + std::to_string(heads) + " over " + std::to_string(layout.kv_heads) + ", dims " +
               std::to_string(layout.key_dim) + " and " + std::to_string(layout.value_dim) + ", window " +
               std::to_string(reach.window) + ", chunk " + std::to_string(reach.chunk) + ", type " +
               std::to_string(static_cast<int>(layout.type)) + (layout.latent ? ", latent" : "");
    }
};

// A layer's part does not lie at the start of a block, nor is it all of it.
constexpr std::size_t kOffset = 192;

// Random keys and values of some sequences, in blocks full of NaNs, and rows that see them.
struct Batch {
    Case c;
    std::vector<float> q, sinks;
    std::vector<std::int64_t> positions, begin;
    std::vector<std::vector<std::byte>> blocks;
    std::vector<std::ptrdiff_t> table{-1};  // indices of blocks; -1 where nobody may look. Does not start at 0

    explicit Batch(Case which) : c(std::move(which)) {
        for (const std::vector<std::int64_t>& rows : c.sequences) {
            positions.insert(positions.end(), rows.begin(), rows.end());
            begin.insert(begin.end(), rows.size(), static_cast<std::int64_t>(table.size()));
            add_sequence(rows);
        }
        q = normal_floats(positions.size() * static_cast<std::size_t>(c.heads * c.layout.key_dim), 1);
        if (c.sinks) sinks = normal_floats(static_cast<std::size_t>(c.heads), 2);
    }

    void add_sequence(const std::vector<std::int64_t>& rows) {
        const auto last = *std::max_element(rows.begin(), rows.end());
        const auto first = *std::min_element(rows.begin(), rows.end());
        const std::int64_t block_count = last / kKvBlock + 1, seen = c.reach.first(first) / kKvBlock * kKvBlock;
        const auto first_block = blocks.size();
        for (std::int64_t block = 0; block < block_count; ++block) {
            const bool needed = (block + 1) * kKvBlock > seen;
            table.push_back(needed ? static_cast<std::ptrdiff_t>(blocks.size()) : -1);
            if (needed) blocks.emplace_back(c.layout.block_bytes() + 2 * kOffset, std::byte{0xff});
        }
        const auto count = static_cast<std::size_t>(last + 1 - seen);
        std::vector<std::int64_t> all(count);
        std::iota(all.begin(), all.end(), seen);
        std::vector<std::byte*> targets;
        for (const std::int64_t position : all)
            targets.push_back(blocks[first_block + static_cast<std::size_t>((position - seen) / kKvBlock)].data() +
                              kOffset);
        const auto heads = static_cast<std::size_t>(c.layout.kv_heads);
        const auto seed = static_cast<unsigned>(first_block);
        const std::vector<float> k = normal_floats(count * heads * static_cast<std::size_t>(c.layout.key_dim), seed),
                                 v = normal_floats(count * heads * static_cast<std::size_t>(c.layout.value_dim),
                                                   seed + 1);
        kv_append(scalar_compute(), c.layout, k.data(), c.layout.latent ? nullptr : v.data(), all.data(),
                  targets.data(), static_cast<int>(count));
    }

    AttentionJob job() const {
        AttentionJob job;
        job.layout = c.layout;
        job.heads = c.heads;
        job.scale = 1.0f / std::sqrt(static_cast<float>(c.layout.key_dim));
        job.softcap = c.softcap;
        job.reach = c.reach;
        job.rows = static_cast<int>(positions.size());
        return job;
    }
    std::size_t outputs() const { return positions.size() * static_cast<std::size_t>(c.heads * c.layout.value_dim); }

    std::vector<float> expected() const {
        std::vector<const std::byte*> places;
        for (const std::ptrdiff_t index : table)
            places.push_back(index < 0 ? nullptr : blocks[static_cast<std::size_t>(index)].data() + kOffset);
        std::vector<float> y(outputs());
        AttentionJob job = this->job();
        job.sinks = c.sinks ? sinks.data() : nullptr;
        job.q = q.data();
        job.positions = positions.data();
        job.block_tables = places.data();
        job.table_begin = begin.data();
        job.y = y.data();
        attention(scalar_compute(), job);
        return y;
    }

    // most_floats: room for states of segments; nullopt for as much as is asked for.
    std::vector<float> on_device(std::optional<std::size_t> most_floats = {}) const {
        std::vector<OnDevice<std::byte>> there;
        for (const auto& block : blocks) there.emplace_back(block);
        std::vector<const std::byte*> places;
        for (const std::ptrdiff_t index : table)
            places.push_back(index < 0 ? nullptr : there[static_cast<std::size_t>(index)].data());
        cuda::AttentionLaunch launch{job(), kOffset};
        for (const std::int64_t position : positions)
            launch.most_segments =
                std::max(launch.most_segments, position / kKvSegment - c.reach.first(position) / kKvSegment + 1);
        launch.state_floats =
            most_floats.value_or(cuda::attention_floats(c.layout, c.heads, launch.job.rows, launch.most_segments));
        const OnDevice<float> on_q(q), on_sinks(sinks), y(outputs()), states(launch.state_floats);
        const OnDevice<std::int64_t> on_positions(positions), on_begin(begin);
        const OnDevice<const std::byte*> on_table(places);
        launch.job.sinks = on_sinks.data();
        launch.job.q = on_q.data();
        launch.job.positions = on_positions.data();
        launch.job.block_tables = on_table.data();
        launch.job.table_begin = on_begin.data();
        launch.job.y = y.data();
        launch.states = states.data();
        EXPECT_EQ(cuda::attention(launch, nullptr), 0);
        return y.read();
    }
};

void expect_attention(Case c) {
    SCOPED_TRACE(c.name());
    const Batch batch(std::move(c));
    const std::vector<float> expected = batch.expected();
    in_every_order([&] { expect_same_bits(batch.on_device(), expected); });
}

// Every position a sequence of its own.
std::vector<std::vector<std::int64_t>> apart(const std::vector<std::int64_t>& positions) {
    std::vector<std::vector<std::int64_t>> sequences;
    for (const std::int64_t position : positions) sequences.push_back({position});
    return sequences;
}
std::vector<std::int64_t> from(std::int64_t first, std::int64_t count) {
    std::vector<std::int64_t> positions(static_cast<std::size_t>(count));
    std::iota(positions.begin(), positions.end(), first);
    return positions;
}

TEST(CudaAttention, EdgesOfBlocksAndSegments) {
    const auto edges = apart({0, 1, 62, 63, 64, 65, 127, 511, 512, 513, 1025});
    for (const KvType type : kTypes) {
        expect_attention({{type, 2, 32, 32}, 8, {}, false, 0, edges});
        expect_attention({{type, 1, 20, 20}, 3, {100, 0}, true, 0, edges});
        expect_attention({{type, 1, 24, 16, true}, 5, {}, true, 0, edges});
    }
    expect_attention({{KvType::bf16, 1, 16, 16}, 1, {}, false, 0, apart({3000})});
}

TEST(CudaAttention, EveryGroupOfHeads) {
    for (const int group : {1, 2, 3, 5, 8, 9, 37, 128})
        expect_attention({{KvType::f32, group < 9 ? 3 : 1, 16, 16},
                          group < 9 ? 3 * group : group,
                          {},
                          group % 2 == 0,
                          0,
                          apart({70, 600})});
    for (const int heads : {1, 40})
        expect_attention({{KvType::bf16, 1, 34, 18, true}, heads, {}, false, 0, apart({66, 530})});
}

TEST(CudaAttention, EveryWidth) {
    for (const KvType type : kTypes)
        for (const auto& [keys, values] :
             {std::pair{1, 1}, {6, 17}, {64, 2}, {48, 65}, {128, 128}, {40, 300}, {576, 512}}) {
            expect_attention({{type, 2, keys, values}, 6, {}, true, 0, apart({63, 530})});
            if (keys >= values) expect_attention({{type, 1, keys, values, true}, 5, {}, false, 0, apart({63, 530})});
        }
}

TEST(CudaAttention, EveryReach) {
    for (const std::int64_t window : {1, 2, 63, 64, 65, 512, 513, 2000})
        expect_attention({{KvType::f32, 2, 16, 16}, 4, {window, 0}, window % 2 == 0, 0, apart({0, 63, 64, 513, 1025})});
    for (const std::int64_t chunk : {1, 3, 64, 100, 512, 700, 5000})
        expect_attention({{KvType::f32, 1, 16, 16},
                          3,
                          {chunk == 100 ? 50 : 0, chunk},
                          chunk % 2 == 1,
                          0,
                          apart({0, 15, 63, 64, 511, 512, 1025})});
}

TEST(CudaAttention, ScoresAreCapped) {
    for (const float softcap : {0.5f, 50.0f})
        expect_attention({{KvType::f16, 1, 20, 20}, 4, {}, true, softcap, apart({0, 64, 530})});
    expect_attention({{KvType::bf16, 2, 24, 16, true}, 4, {70, 0}, true, 2.0f, apart({0, 63, 64, 530})});
}

// Infinite scores, of both signs, and such as are not numbers.
TEST(CudaAttention, ScoresThatOverflow) {
    for (const float softcap : {0.0f, 2.0f}) {
        Batch batch({{KvType::f32, 2, 16, 16}, 6, {}, true, softcap, apart({0, 63, 70, 600})});
        for (std::size_t i = 0; i < batch.q.size(); i += 40) batch.q[i] *= 3e38f;
        const std::vector<float> expected = batch.expected();
        in_every_order([&] { expect_same_bits(batch.on_device(), expected); });
    }
}

// Rows enough that some are folded together: of one sequence or of several, with and without gaps, in any order, and
// on both sides of where another segment becomes the first one seen.
TEST(CudaAttention, RowsThatFollowEachOther) {
    std::vector<std::int64_t> mixed = from(500, 30);
    for (const std::int64_t position : {5, 900, 5, 70, 1030}) mixed.push_back(position);
    const std::vector<std::vector<std::int64_t>> sequences = {from(0, 70), {511}, from(1000, 45), mixed};
    for (const KvType type : kTypes) expect_attention({{type, 2, 32, 32}, 2, {}, false, 0, sequences});
    for (const int group : {2, 3, 8}) expect_attention({{KvType::bf16, 1, 16, 24}, group, {}, true, 0, sequences});
    for (const std::int64_t window : {3, 64, 500})
        expect_attention({{KvType::bf16, 2, 16, 16}, 4, {window, 0}, window == 64, 0, sequences});
    expect_attention({{KvType::f16, 1, 16, 16}, 1, {0, 100}, false, 1.0f, sequences});
    expect_attention({{KvType::bf16, 1, 24, 16, true}, 3, {90, 0}, false, 0, sequences});
}

TEST(CudaAttention, ScratchIsBounded) {
    const KvLayout layout{KvType::f32, 1, 4, 512};
    const std::size_t floats = cuda::attention_floats(layout, 64, 66, 2);
    EXPECT_EQ(floats, cuda::attention_floats(layout, 64, 1000, 100));
    EXPECT_LT(floats, 66 * 2 * 64 * 514);
    EXPECT_EQ(cuda::attention_floats(layout, 1 << 14, 1, 100), 2 * (1 << 14) * 514);
}

// More states than there is memory for: rows and segments go in parts.
TEST(CudaAttention, PartsThatFitGiveTheSameBits) {
    const KvLayout layout{KvType::f32, 1, 4, 40};
    const std::size_t row = 3 * (40 + 2);
    for (const bool sinks : {false, true}) {
        const Batch batch({layout, 3, {1000, 0}, sinks, 0, {{5, 700, 1100, 1200, 1300}}});
        const std::vector<float> expected = batch.expected();
        for (const std::size_t states : {2, 3, 5, 8, 14}) {
            SCOPED_TRACE(std::to_string(states) + " states");
            expect_same_bits(batch.on_device(states * row), expected);
        }
    }
}

TEST(CudaKvAppend, WritesTheProcessorsBytes) {
    for (const KvType type : kTypes)
        for (const auto& [key_dim, value_dim, latent] :
             {std::tuple{21, 21, false}, {5, 300, false}, {300, 7, false}, {21, 13, true}, {576, 512, true}}) {
            const KvLayout layout{type, 3, key_dim, value_dim, latent};
            const std::vector<std::int64_t> positions = {64 + 5, 63, 6};
            std::vector<float> k = normal_floats(static_cast<std::size_t>(3 * 3 * key_dim), 5),
                               v = normal_floats(static_cast<std::size_t>(3 * 3 * value_dim), 6);
            k[3] = 3e-41f;  // small, smaller, and halfway
            k[4] = 5.9604645e-08f * 2.5f;
            v[0] = 1.00390625f;
            const std::vector<std::byte> blank(layout.block_bytes() + 2 * kOffset, std::byte{0xff});
            std::vector<std::byte> first(blank), second(blank);
            std::byte* const places[] = {first.data() + kOffset, second.data() + kOffset, first.data() + kOffset};
            kv_append(scalar_compute(), layout, k.data(), latent ? nullptr : v.data(), positions.data(), places, 3);
            in_every_order([&] {
                const OnDevice<std::byte> one(blank), two(blank);
                const OnDevice<std::byte*> blocks(std::vector<std::byte*>{one.data(), two.data(), one.data()});
                const OnDevice<float> on_k(k), on_v(v);
                const OnDevice<std::int64_t> on_positions(positions);
                const FaultWord fault;
                ASSERT_EQ(cuda::kv_append(layout, on_k.data(), latent ? nullptr : on_v.data(), on_positions.data(),
                                          blocks.data(), kOffset, 3, fault.data(), nullptr),
                          0);
                EXPECT_EQ(one.read(), first);
                EXPECT_EQ(two.read(), second);
                EXPECT_EQ(fault.read(), Fault::none);
            });
        }
}

TEST(CudaKvAppend, WhatTheTypeCannotHoldIsAFault) {
    const float huge = std::numeric_limits<float>::max(), infinite = std::numeric_limits<float>::infinity();
    const struct {
        KvType type;
        float held, refused;
    } cases[] = {{KvType::f16, 65519.0f, 65520.0f}, {KvType::bf16, 3.38e38f, huge}, {KvType::f32, huge, infinite}};
    for (const auto& [type, held, refused] : cases) {
        const auto append = [type = type](float key, float value, bool latent) {
            const KvLayout layout{type, 1, 4, latent ? 3 : 4, latent};
            const OnDevice<float> k(std::vector<float>{1, key, 2, 3}), v(std::vector<float>{1, 2, value, 3});
            const OnDevice<std::byte> block(layout.block_bytes());
            const OnDevice<std::byte*> blocks(std::vector<std::byte*>{block.data()});
            const OnDevice<std::int64_t> position(std::vector<std::int64_t>{3});
            const FaultWord fault;
            EXPECT_EQ(cuda::kv_append(layout, k.data(), latent ? nullptr : v.data(), position.data(), blocks.data(), 0,
                                      1, fault.data(), nullptr),
                      0);
            return fault.read();
        };
        EXPECT_EQ(append(held, -held, false), Fault::none);
        EXPECT_EQ(append(held, 0, true), Fault::none);
        EXPECT_EQ(append(refused, 0, true), Fault::kv);
        for (const float bad : {refused, -refused, std::numeric_limits<float>::quiet_NaN()}) {
            EXPECT_EQ(append(bad, 0, false), Fault::kv);
            EXPECT_EQ(append(0, bad, false), Fault::kv);
        }
    }
}

}  // namespace
}  // namespace moestro::kernels
