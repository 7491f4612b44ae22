// Batches of several rows per sequence, as prefill and speculation make them: rows computed together must get what each
// gets alone, which is what the book says.
#include "kernels/attention_tiles.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "kernels/attention_oracle.h"
#include "kernels/bits.h"
#include "kernels/ops.h"
#include "kernels/tables.h"
#include "quant/convert.h"

namespace moestro::kernels {
namespace {

using testing::aligned_bytes;
using testing::AlignedBytes;
using testing::expect_same_bits;
using testing::normal_floats;
using testing::scalar_compute;

struct Row {
    int sequence;
    std::int64_t position;
};

void add_rows(std::vector<Row>& rows, int sequence, std::int64_t first, std::int64_t last) {
    for (std::int64_t position = first; position <= last; ++position) rows.push_back({sequence, position});
}

struct Case {
    KvLayout layout;
    int group;
    std::int64_t window;
    bool sinks;
    std::vector<Row> rows;
    std::int64_t chunk = 0;
    float softcap = 0;

    Reach reach() const { return {window, chunk}; }
    int heads() const { return layout.kv_heads * group; }
    std::string name() const {
        return "type " + std::to_string(static_cast<int>(layout.type)) + ", KV heads " +
               std::to_string(layout.kv_heads) + ", group " + std::to_string(group) + ", dims " +
               std::to_string(layout.key_dim) + " and " + std::to_string(layout.value_dim) +
               (layout.latent ? " (latent)" : "") + ", window " + std::to_string(window) + ", chunk " +
               std::to_string(chunk) + ", softcap " + std::to_string(softcap);
    }
};

float rounded(float value, KvType type) {
    if (type == KvType::bf16) return quant::widen(quant::to_bf16(value));
    return type == KvType::f16 ? quant::widen(quant::to_f16(value)) : value;
}

// One sequence: [kv head][position][dim] as stored, and its blocks, in memory full of NaNs.
struct Sequence {
    std::vector<std::vector<float>> keys, values;
    std::vector<AlignedBytes> blocks;
    std::int64_t table_begin = 0;
};

class Batch {
  public:
    explicit Batch(const Case& which, unsigned seed) : c_(which) {
        q_ = normal_floats(c_.rows.size() * row_floats(), seed);
        sinks_ = normal_floats(static_cast<std::size_t>(c_.heads()), seed + 1);
        std::map<int, std::int64_t> lengths;
        for (const Row& row : c_.rows) lengths[row.sequence] = std::max(lengths[row.sequence], row.position + 1);
        for (const auto& [id, length] : lengths) fill(id, length, seed + 10 + static_cast<unsigned>(id));
        for (const Row& row : c_.rows) {
            positions_.push_back(row.position);
            begins_.push_back(sequences_.at(row.sequence).table_begin);
        }
    }

    std::vector<float> expected() const {
        std::vector<float> y;
        for (std::size_t row = 0; row < c_.rows.size(); ++row)
            for (int head = 0; head < c_.heads(); ++head) {
                const Sequence& sequence = sequences_.at(c_.rows[row].sequence);
                const auto kv_head = static_cast<std::size_t>(head / c_.group);
                const testing::BookHead book{sequence.keys[kv_head],
                                             sequence.values[kv_head],
                                             c_.layout.key_dim,
                                             c_.layout.value_dim,
                                             scale(),
                                             c_.softcap};
                const std::vector<float> out = book.attend(
                    q_.data() + row * row_floats() + static_cast<std::size_t>(head * c_.layout.key_dim),
                    c_.rows[row].position, c_.reach(), c_.sinks ? &sinks_[static_cast<std::size_t>(head)] : nullptr);
                y.insert(y.end(), out.begin(), out.end());
            }
        return y;
    }

    std::vector<float> run(Compute& compute, AttentionScratch& scratch) const {
        std::vector<float> y(c_.rows.size() * static_cast<std::size_t>(c_.heads() * c_.layout.value_dim) + 1, -7.0f);
        attention(compute, job(y.data()), scratch);
        const std::int64_t longest = *std::max_element(positions_.begin(), positions_.end()) + 1;
        EXPECT_LE(scratch.held(), AttentionScratch::bytes(c_.layout, c_.heads(), static_cast<int>(c_.rows.size()),
                                                          longest, compute.pool().threads()));
        EXPECT_EQ(y.back(), -7.0f);
        y.pop_back();
        return y;
    }

    AttentionJob job(float* y) const {
        AttentionJob job;
        job.layout = c_.layout;
        job.heads = c_.heads();
        job.scale = scale();
        job.softcap = c_.softcap;
        job.reach = c_.reach();
        job.sinks = c_.sinks ? sinks_.data() : nullptr;
        job.q = q_.data();
        job.positions = positions_.data();
        job.block_tables = table_.data();
        job.table_begin = begins_.data();
        job.rows = static_cast<int>(c_.rows.size());
        job.y = y;
        return job;
    }

  private:
    std::size_t row_floats() const { return static_cast<std::size_t>(c_.heads() * c_.layout.key_dim); }
    float scale() const { return 1.0f / std::sqrt(static_cast<float>(c_.layout.key_dim)); }

    void fill(int id, std::int64_t length, unsigned seed) {
        const auto key_dim = static_cast<std::size_t>(c_.layout.key_dim),
                   value_dim = static_cast<std::size_t>(c_.layout.value_dim),
                   heads = static_cast<std::size_t>(c_.layout.kv_heads), count = static_cast<std::size_t>(length);
        const std::vector<float> k = normal_floats(count * heads * key_dim, seed),
                                 v = normal_floats(count * heads * value_dim, seed + 500);
        Sequence& sequence = sequences_[id];
        std::vector<std::int64_t> positions(count);
        std::vector<std::byte*> targets(count);
        for (std::size_t at = 0; at < count; ++at) {
            if (at % kKvBlock == 0) sequence.blocks.push_back(aligned_bytes(c_.layout.block_bytes()));
            positions[at] = static_cast<std::int64_t>(at);
            targets[at] = sequence.blocks.back().get();
        }
        kv_append(scalar_compute(), c_.layout, k.data(), c_.layout.latent ? nullptr : v.data(), positions.data(),
                  targets.data(), static_cast<int>(length));
        const auto part = [&](const std::vector<float>& all, std::size_t width, std::size_t head, std::size_t taken) {
            std::vector<float> kept;
            for (std::size_t at = 0; at < count; ++at)
                for (std::size_t i = 0; i < taken; ++i)
                    kept.push_back(rounded(all[(at * heads + head) * width + i], c_.layout.type));
            return kept;
        };
        for (std::size_t head = 0; head < heads; ++head) {
            sequence.keys.push_back(part(k, key_dim, head, key_dim));
            sequence.values.push_back(c_.layout.latent ? part(k, key_dim, head, value_dim)
                                                       : part(v, value_dim, head, value_dim));
        }
        std::int64_t oldest = length;
        for (const Row& row : c_.rows)
            if (row.sequence == id) oldest = std::min(oldest, testing::BookHead::lowest(c_.reach(), row.position));
        table_.push_back(nullptr);  // no table starts at 0
        sequence.table_begin = static_cast<std::int64_t>(table_.size());
        for (std::size_t block = 0; block < sequence.blocks.size(); ++block)
            table_.push_back(
                static_cast<std::int64_t>((block + 1) * kKvBlock) <= oldest ? nullptr : sequence.blocks[block].get());
    }

    Case c_;
    std::vector<float> q_, sinks_;
    std::map<int, Sequence> sequences_;
    std::vector<const std::byte*> table_;
    std::vector<std::int64_t> positions_, begins_;
};

// A prompt that crosses a segment, decoding rows of two others, a prompt from 0 on, the first sequence again with a
// gap, going back and twice the same: what no scheduler makes, but nothing forbids.
std::vector<Row> ragged() {
    std::vector<Row> rows;
    add_rows(rows, 0, 490, 531);
    rows.push_back({1, 1100});
    rows.push_back({2, 0});
    add_rows(rows, 3, 0, 66);
    rows.push_back({0, 534});
    rows.push_back({0, 533});
    rows.push_back({0, 533});
    rows.push_back({1, 1101});
    rows.push_back({3, 1101});
    return rows;
}

std::vector<Row> prompt(std::int64_t first, std::int64_t last) {
    std::vector<Row> rows;
    add_rows(rows, 0, first, last);
    return rows;
}

std::vector<Case> every_case() {
    std::vector<Case> cases;
    for (KvType type : {KvType::f32, KvType::bf16, KvType::f16}) {
        cases.push_back({{type, 2, 16, 16}, 4, 0, false, ragged()});
        cases.push_back({{type, 1, 24, 24}, 3, 70, true, ragged()});
    }
    for (int group : {1, 2, 3, 4, 5, 6, 7, 8, 13, 24, 71})
        cases.push_back({{KvType::bf16, group % 2 + 1, 18, 18}, group, 0, group % 3 == 0, prompt(50, 130)});
    for (int dim : {2, 6, 32, 40, 64, 80, 128, 130})
        cases.push_back({{dim % 3 ? KvType::f32 : KvType::f16, 1, dim, dim}, 5, 0, false, prompt(500, 520)});
    for (std::int64_t window : {1, 2, 5, 63, 64, 65, 200, 512, 513})
        cases.push_back({{KvType::bf16, 1, 16, 16}, window % 2 ? 4 : 6, window, window % 4 == 1, prompt(570, 650)});
    cases.push_back({{KvType::f32, 1, 16, 16}, 1, 0, true, prompt(4090, 4100)});  // its segments are shared out
    cases.push_back({{KvType::f16, 1, 8, 8}, 71, 0, false, prompt(4097, 4098)});  // in several waves
    for (KvType type : {KvType::f32, KvType::bf16, KvType::f16})  // few queries, and enough to pack a block for
        for (int group : {1, 5, 30}) {
            const std::int64_t last = group == 1 ? 540 : 520;
            cases.push_back({{type, 2, 24, 16}, group, 0, group == 5, prompt(508, last)});
            cases.push_back({{type, 1, 18, 35}, group, 70, group == 1, prompt(508, last)});
            cases.push_back({{type, 1, 48, 32, true}, group, 0, group == 5, prompt(508, last)});
            cases.push_back({{type, 2, 35, 17, true}, group, 70, group == 1, prompt(508, last)});
            cases.push_back({{type, 1, 20, 20}, group, 0, group == 30, prompt(508, last), 0, 1.5f});
        }
    cases.push_back({{KvType::bf16, 1, 48, 32, true}, 3, 0, true, ragged(), 0, 2.0f});
    for (int group : {37, 40, 128}) {  // computed in parts
        cases.push_back({{KvType::bf16, 1, 16, 16}, group, 0, true, prompt(510, 514)});
        cases.push_back({{KvType::f32, 2, 20, 12}, group, 0, false, prompt(1100, 1100), 0, 3.0f});
        cases.push_back({{KvType::bf16, 1, 40, 32, true}, group, 0, group == 40, prompt(510, 514)});
    }
    for (std::int64_t chunk : {1, 7, 64, 100, 512, 513, 2000}) {
        const std::int64_t window = chunk == 100 ? 30 : chunk == 513 ? 600 : 0;
        cases.push_back({{KvType::f16, 1, 16, 16}, chunk % 2 ? 2 : 6, window, chunk % 3 == 1, prompt(490, 620), chunk});
        cases.push_back({{KvType::f32, 1, 16, 16}, 2, window, false, ragged(), chunk});
    }
    cases.push_back({{KvType::bf16, 1, 24, 16, true}, 4, 0, false, prompt(490, 620), 100});
    return cases;
}

TEST(AttentionTiles, EveryTableAndThreadCountGivesTheBooksBits) {
    std::vector<testing::NamedCompute> computes;
    for (const auto& table : testing::runnable_tables())
        for (int threads : {1, 2, 3, 4})
            computes.push_back({table.name + ", threads " + std::to_string(threads),
                                std::make_unique<Compute>(threads, table.choice)});
    for (const Case& c : every_case()) {
        const Batch batch(c, 7);
        const std::vector<float> expected = batch.expected();
        for (const auto& [name, compute] : computes) {
            SCOPED_TRACE(name + ", " + c.name());
            const testing::FlushSubnormals flush;
            AttentionScratch scratch;
            expect_same_bits(batch.run(*compute, scratch), expected);
            if (::testing::Test::HasFatalFailure()) return;
        }
    }
}

TEST(AttentionTiles, ScratchIsKeptAndStaysWithinWhatItSaid) {
    const KvLayout layout{KvType::f32, 1, 16, 16};
    const Batch large({layout, 2, 0, false, prompt(600, 663)}, 1), small({layout, 2, 0, false, prompt(40, 43)}, 2);
    for (const auto& [name, compute] : testing::every_compute()) {
        SCOPED_TRACE(name);
        AttentionScratch scratch;
        const std::vector<float> first = small.run(*compute, scratch);
        large.run(*compute, scratch);
        const std::size_t held = scratch.held();
        const float* kept = scratch.floats.data();
        std::vector<float> again(first.size());
        attention(*compute, small.job(again.data()), scratch);
        expect_same_bits(again, first);
        EXPECT_EQ(scratch.floats.data(), kept);
        EXPECT_EQ(scratch.held(), held);
        EXPECT_LE(held, AttentionScratch::bytes(layout, 2, 64, 664, compute->pool().threads()));
    }
}

TEST(AttentionTiles, ScratchDoesNotGrowWithTheContext) {
    const KvLayout layout{KvType::bf16, 4, 128, 128};
    EXPECT_EQ(AttentionScratch::bytes(layout, 16, 64, 1024, 4), AttentionScratch::bytes(layout, 16, 64, 1 << 20, 4));
    EXPECT_LT(AttentionScratch::bytes(layout, 16, 64, 512, 4), AttentionScratch::bytes(layout, 16, 64, 1024, 4));
}

TEST(AttentionTiles, CutsCoverEveryRowOnceAndShareTheirSegments) {
    for (const Reach reach : {Reach{0, 0}, {100, 0}, {600, 0}, {0, 100}, {0, 530}, {50, 100}}) {
        const Case c{{KvType::f32, 1, 4, 4}, 1, reach.window, false, ragged(), reach.chunk};
        const Batch batch(c, 1);
        const AttentionJob job = batch.job(nullptr);
        for (int most : {1, 3, 16, 64}) {
            std::vector<AttentionTile> tiles;
            int largest = 0, next = 0;
            const int found = cut(job, most, tiles);
            for (const AttentionTile& tile : tiles) {
                EXPECT_EQ(tile.row, next);
                EXPECT_LE(tile.rows, most);
                largest = std::max(largest, tile.rows);
                next += tile.rows;
                for (int row = tile.row; row < next; ++row) {
                    const std::int64_t position = job.positions[row], low = testing::BookHead::lowest(reach, position);
                    EXPECT_EQ(tile.segment, low / kKvSegment);
                    EXPECT_EQ(tile.segment + tile.segments - 1, position / kKvSegment);
                    EXPECT_EQ(position, job.positions[tile.row] + row - tile.row);
                    EXPECT_EQ(job.table_begin[row], job.table_begin[tile.row]);
                }
            }
            EXPECT_EQ(next, job.rows);
            EXPECT_EQ(found, largest);
            if (reach.window == 0 && reach.chunk == 0) {
                EXPECT_EQ(largest, std::min(most, 67));  // the whole prompt of sequence 3 is one
            }
        }
    }
}

TEST(AttentionTiles, ManyHeadsAreComputedInEqualPartsOfAtMost32) {
    for (const auto& [heads, part] :
         {std::pair{1, 1}, {32, 32}, {33, 11}, {37, 1}, {40, 20}, {64, 32}, {71, 1}, {128, 32}}) {
        EXPECT_EQ(heads_per_group({KvType::bf16, 1, 16, 16}, heads), part) << heads;
        EXPECT_EQ(heads_per_group({KvType::bf16, 3, 16, 16}, 3 * heads), part) << heads;
    }
}

TEST(KvAppend, ManyRowsAreTheSameOnEveryTableAndThreadCount) {
    for (KvLayout layout : {KvLayout{KvType::f32, 3, 70, 70},
                            {KvType::bf16, 3, 70, 70},
                            {KvType::f16, 3, 70, 70},
                            {KvType::bf16, 3, 70, 40},
                            {KvType::f16, 3, 70, 64, true}}) {
        const int rows = 150;
        const std::vector<float> k = normal_floats(rows * 210, 1),
                                 v = normal_floats(static_cast<std::size_t>(rows * 3 * layout.value_dim), 2);
        std::vector<std::int64_t> positions;
        for (int row = 0; row < rows; ++row) positions.push_back(40 + row);
        const auto append = [&](Compute& compute) {
            std::vector<AlignedBytes> blocks;
            for (int block = 0; block < 3; ++block) blocks.push_back(aligned_bytes(layout.block_bytes()));
            std::vector<std::byte*> targets;
            for (std::int64_t position : positions)
                targets.push_back(blocks[static_cast<std::size_t>(position / kKvBlock)].get());
            kv_append(compute, layout, k.data(), layout.latent ? nullptr : v.data(), positions.data(), targets.data(),
                      rows);
            return blocks;
        };
        const auto expected = append(scalar_compute());
        for (const auto& [name, compute] : testing::every_compute()) {
            SCOPED_TRACE(name);
            const auto actual = append(*compute);
            for (std::size_t block = 0; block < 3; ++block)
                EXPECT_EQ(std::memcmp(actual[block].get(), expected[block].get(), layout.block_bytes()), 0);
        }
    }
}

}  // namespace
}  // namespace moestro::kernels
