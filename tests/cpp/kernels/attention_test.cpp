#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "kernels/bits.h"
#include "kernels/ops.h"
#include "kernels/tables.h"
#include "quant/convert.h"

namespace moestro::kernels {
namespace {

using testing::aligned_bytes;
using testing::AlignedBytes;
using testing::every_compute;
using testing::expect_same_bits;
using testing::normal_floats;
using testing::scalar_compute;

float rounded(float value, KvType type) {
    switch (type) {
        case KvType::bf16:
            return quant::widen(quant::to_bf16(value));
        case KvType::f16:
            return quant::widen(quant::to_f16(value));
        default:
            return value;
    }
}

struct Case {
    KvLayout layout;
    int heads;
    std::int64_t window = 0;
    bool sinks = false;
    std::vector<std::int64_t> positions;  // one row each, every row its own sequence
};

// Sequences of random keys and values in blocks scattered over memory full of NaNs.
struct Batch {
    Case c;
    std::vector<float> q, sinks;
    std::vector<std::vector<float>> k, v;  // per row: [positions + 1, kv_heads, head_dim], unrounded
    std::vector<AlignedBytes> blocks;
    std::vector<const std::byte*> table;
    std::vector<std::int64_t> begin;

    explicit Batch(Case which, unsigned seed = 1) : c(std::move(which)) {
        const auto width = static_cast<std::size_t>(c.layout.kv_heads * c.layout.head_dim);
        q = normal_floats(c.positions.size() * static_cast<std::size_t>(c.heads * c.layout.head_dim), seed);
        if (c.sinks) sinks = normal_floats(static_cast<std::size_t>(c.heads), seed + 1);
        table.push_back(nullptr);  // row 0's table does not start at 0
        for (std::size_t row = 0; row < c.positions.size(); ++row) {
            const auto length = static_cast<std::size_t>(c.positions[row] + 1);
            k.push_back(normal_floats(length * width, seed + 100 + static_cast<unsigned>(row)));
            v.push_back(normal_floats(length * width, seed + 200 + static_cast<unsigned>(row)));
            begin.push_back(static_cast<std::int64_t>(table.size()));
            append_row(row, length);
        }
    }

    void append_row(std::size_t row, std::size_t length) {
        std::vector<std::byte*> own;
        for (std::size_t block = 0; block * kKvBlock < length; ++block) {
            blocks.push_back(aligned_bytes(c.layout.block_bytes()));
            own.push_back(blocks.back().get());
        }
        std::vector<std::int64_t> positions(length);
        std::iota(positions.begin(), positions.end(), 0);
        std::vector<std::byte*> targets(length);
        for (std::size_t at = 0; at < length; ++at) targets[at] = own[at / kKvBlock];
        kv_append(scalar_compute(), c.layout, k[row].data(), v[row].data(), positions.data(), targets.data(),
                  static_cast<int>(length));
        const std::int64_t lowest = c.window ? std::max<std::int64_t>(0, c.positions[row] - c.window + 1) : 0;
        for (std::size_t block = 0; block < own.size(); ++block)
            table.push_back(static_cast<std::int64_t>((block + 1) * kKvBlock) <= lowest ? nullptr : own[block]);
    }

    std::vector<float> run(Compute& compute, std::size_t first = 0, std::size_t count = SIZE_MAX) const {
        count = std::min(count, c.positions.size() - first);
        const auto width = static_cast<std::size_t>(c.heads * c.layout.head_dim);
        std::vector<float> y(count * width, -7.0f);
        AttentionJob job;
        job.layout = c.layout;
        job.heads = c.heads;
        job.scale = 1.0f / std::sqrt(static_cast<float>(c.layout.head_dim));
        job.window = c.window;
        job.sinks = c.sinks ? sinks.data() : nullptr;
        job.q = q.data() + first * width;
        job.positions = c.positions.data() + first;
        job.block_tables = table.data();
        job.table_begin = begin.data() + first;
        job.rows = static_cast<int>(count);
        job.y = y.data();
        AttentionScratch scratch;
        attention(compute, job, scratch);
        std::int64_t longest = 0;
        for (std::size_t row = first; row < first + count; ++row) longest = std::max(longest, c.positions[row] + 1);
        EXPECT_LE(scratch.held(),
                  AttentionScratch::bytes(c.layout, c.heads, job.rows, longest, compute.pool().threads()));
        return y;
    }

    // Softmax over visible keys in double precision, of the rounded keys and values.
    std::vector<double> reference() const {
        const int dim = c.layout.head_dim, group = c.heads / c.layout.kv_heads;
        std::vector<double> out;
        for (std::size_t row = 0; row < c.positions.size(); ++row)
            for (int head = 0; head < c.heads; ++head) {
                const std::int64_t last = c.positions[row],
                                   low = c.window ? std::max<std::int64_t>(0, last - c.window + 1) : 0;
                const float* query =
                    q.data() + (row * static_cast<std::size_t>(c.heads) + static_cast<std::size_t>(head)) *
                                   static_cast<std::size_t>(dim);
                double sum = c.sinks ? std::exp(static_cast<double>(sinks[static_cast<std::size_t>(head)])) : 0;
                std::vector<double> o(static_cast<std::size_t>(dim));
                for (std::int64_t j = low; j <= last; ++j) {
                    const auto at = static_cast<std::size_t>((j * c.layout.kv_heads + head / group) * dim);
                    double score = 0;
                    for (int i = 0; i < dim; ++i)
                        score += static_cast<double>(query[i]) *
                                 rounded(k[row][at + static_cast<std::size_t>(i)], c.layout.type);
                    const double e = std::exp(score * static_cast<double>(1.0f / std::sqrt(static_cast<float>(dim))));
                    sum += e;
                    for (int i = 0; i < dim; ++i)
                        o[static_cast<std::size_t>(i)] +=
                            e * rounded(v[row][at + static_cast<std::size_t>(i)], c.layout.type);
                }
                for (double value : o) out.push_back(value / sum);
            }
        return out;
    }
};

std::vector<Case> every_case() {
    std::vector<Case> cases;
    const std::vector<std::int64_t> edges = {0, 1, 15, 62, 63, 64, 65, 127, 511, 512, 513, 1025};
    for (KvType type : {KvType::f32, KvType::bf16, KvType::f16}) {
        cases.push_back({{type, 2, 32}, 8, 0, false, edges});
        cases.push_back({{type, 1, 20}, 3, 100, true, edges});
    }
    for (int group : {1, 2, 5, 7}) cases.push_back({{KvType::f32, 3, 16}, 3 * group, 0, group % 2 == 0, {70, 600}});
    for (int dim : {2, 6, 18, 48, 128, 130}) cases.push_back({{KvType::bf16, 1, dim}, 4, 0, false, {66, 530}});
    for (std::int64_t window : {1, 2, 63, 64, 65, 512, 513, 2000})
        cases.push_back({{KvType::f32, 2, 16}, 4, window, window % 2 == 0, {0, 63, 64, 513, 1025}});
    cases.push_back({{KvType::f32, 1, 16}, 1, 0, false, {5000}});  // one item, many segments
    return cases;
}

TEST(Attention, ScalarIsCloseToDoublePrecision) {
    for (const Case& c : every_case()) {
        const Batch batch(c);
        EXPECT_LT(testing::nmse(batch.run(scalar_compute()), batch.reference()), 1e-12)
            << "heads " << c.heads << " dim " << c.layout.head_dim << " window " << c.window;
    }
}

TEST(Attention, EveryTableGivesTheScalarBits) {
    const auto computes = every_compute();
    for (const Case& c : every_case()) {
        const Batch batch(c, 3);
        const std::vector<float> expected = batch.run(scalar_compute());
        for (const auto& [name, compute] : computes) {
            SCOPED_TRACE(name + ", heads " + std::to_string(c.heads) + ", dim " + std::to_string(c.layout.head_dim) +
                         ", window " + std::to_string(c.window));
            const testing::FlushSubnormals flush;
            expect_same_bits(batch.run(*compute), expected);
        }
    }
}

TEST(Attention, ARowDoesNotSeeItsNeighbours) {
    const Batch batch({{KvType::f32, 2, 24}, 4, 0, true, {0, 64, 1025, 512, 63, 700}});
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        const std::vector<float> together = batch.run(*compute);
        for (std::size_t row = 0; row < 6; ++row)
            expect_same_bits(batch.run(*compute, row, 1), std::span(together).subspan(row * 4 * 24, 4 * 24));
    }
}

TEST(Attention, WindowAsLongAsTheContextChangesNothing) {
    Case c{{KvType::f32, 1, 16}, 2, 0, false, {600}};
    const std::vector<float> unlimited = Batch(c).run(scalar_compute());
    c.window = 601;
    expect_same_bits(Batch(c).run(scalar_compute()), unlimited);
    c.window = 600;
    EXPECT_NE(Batch(c).run(scalar_compute()), unlimited);
}

TEST(KvAppend, RefusesWhatTheTypeCannotHold) {
    const float huge = std::numeric_limits<float>::max(), infinite = std::numeric_limits<float>::infinity();
    const struct {
        KvType type;
        float held, refused;
    } cases[] = {{KvType::f16, 65519.0f, 65520.0f}, {KvType::bf16, 3.38e38f, huge}, {KvType::f32, huge, infinite}};
    for (const auto& [type, held, refused] : cases) {
        const KvLayout layout{type, 1, 4};
        const AlignedBytes block = aligned_bytes(layout.block_bytes());
        std::byte* const blocks[] = {block.get()};
        const std::int64_t position = 3;
        const auto append = [&](float k, float v) {
            const float keys[] = {1, k, 2, 3}, values[] = {1, 2, v, 3};
            kv_append(scalar_compute(), layout, keys, values, &position, blocks, 1);
        };
        EXPECT_NO_THROW(append(held, -held));
        for (const float bad : {refused, -refused, std::numeric_limits<float>::quiet_NaN()}) {
            EXPECT_THROW(append(bad, 0), Error);
            EXPECT_THROW(append(0, bad), Error);
        }
    }
}

TEST(KvAppend, WritesTheDocumentedPlaces) {
    for (KvType type : {KvType::f32, KvType::bf16, KvType::f16}) {
        const KvLayout layout{type, 3, 21};
        const std::size_t size = bytes(type);
        EXPECT_EQ(layout.block_bytes(), (2 * 3 * 21 * 64 * size + 63) / 64 * 64);
        const std::vector<float> k = normal_floats(2 * 63, 5), v = normal_floats(2 * 63, 6);
        const std::int64_t positions[] = {64 + 5, 63};
        for (const auto& [name, compute] : every_compute()) {
            SCOPED_TRACE(name);
            AlignedBytes first = aligned_bytes(layout.block_bytes()), second = aligned_bytes(layout.block_bytes());
            std::byte* const blocks[] = {first.get(), second.get()};
            kv_append(*compute, layout, k.data(), v.data(), positions, blocks, 2);
            const auto at = [&](const std::byte* block, std::size_t index) {
                float wide = 0;
                quant::Bf16 brain{};
                quant::F16 half{};
                std::memcpy(&wide, block + index * size, size);
                std::memcpy(&brain, &wide, 2);
                std::memcpy(&half, &wide, 2);
                return type == KvType::f32 ? wide : type == KvType::bf16 ? quant::widen(brain) : quant::widen(half);
            };
            for (std::size_t row = 0; row < 2; ++row)
                for (std::size_t head = 0; head < 3; ++head)
                    for (std::size_t i = 0; i < 21; ++i) {
                        const auto column = static_cast<std::size_t>(positions[row] % 64);
                        const std::size_t source = row * 63 + head * 21 + i;
                        EXPECT_EQ(at(blocks[row], head * 21 * 64 + i * 64 + column), rounded(k[source], type));
                        EXPECT_EQ(at(blocks[row], 3 * 21 * 64 + head * 21 * 64 + column * 21 + i),
                                  rounded(v[source], type));
                    }
            EXPECT_TRUE(std::isnan(at(first.get(), 4)));  // other columns stay as they were
        }
    }
}

}  // namespace
}  // namespace moestro::kernels
