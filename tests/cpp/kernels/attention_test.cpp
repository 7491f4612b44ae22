#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <tuple>

#include "base/error.h"
#include "kernels/attention_oracle.h"
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
    std::int64_t chunk = 0;
    float softcap = 0;

    Reach reach() const { return {window, chunk}; }
    std::string name() const {
        return "heads " + std::to_string(heads) + ", dims " + std::to_string(layout.key_dim) + " and " +
               std::to_string(layout.value_dim) + ", window " + std::to_string(window) + ", chunk " +
               std::to_string(chunk);
    }
};

// Sequences of random keys and values in blocks scattered over memory full of NaNs.
struct Batch {
    Case c;
    std::vector<float> q, sinks;
    std::vector<std::vector<float>> k, v;  // per row: [positions + 1, kv_heads, dim], unrounded
    std::vector<AlignedBytes> blocks;
    std::vector<const std::byte*> table;
    std::vector<std::int64_t> begin;

    explicit Batch(Case which, unsigned seed = 1) : c(std::move(which)) {
        const auto keys = static_cast<std::size_t>(c.layout.kv_heads * c.layout.key_dim),
                   values = static_cast<std::size_t>(c.layout.kv_heads * c.layout.value_dim);
        q = normal_floats(c.positions.size() * static_cast<std::size_t>(c.heads * c.layout.key_dim), seed);
        if (c.sinks) sinks = normal_floats(static_cast<std::size_t>(c.heads), seed + 1);
        table.push_back(nullptr);  // row 0's table does not start at 0
        for (std::size_t row = 0; row < c.positions.size(); ++row) {
            const auto length = static_cast<std::size_t>(c.positions[row] + 1);
            k.push_back(normal_floats(length * keys, seed + 100 + static_cast<unsigned>(row)));
            v.push_back(normal_floats(length * values, seed + 200 + static_cast<unsigned>(row)));
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
        kv_append(scalar_compute(), c.layout, k[row].data(), c.layout.latent ? nullptr : v[row].data(),
                  positions.data(), targets.data(), static_cast<int>(length));
        const std::int64_t lowest = testing::BookHead::lowest(c.reach(), c.positions[row]);
        for (std::size_t block = 0; block < own.size(); ++block)
            table.push_back(static_cast<std::int64_t>((block + 1) * kKvBlock) <= lowest ? nullptr : own[block]);
    }

    std::vector<float> run(Compute& compute, std::size_t first = 0, std::size_t count = SIZE_MAX) const {
        count = std::min(count, c.positions.size() - first);
        const auto heads = static_cast<std::size_t>(c.heads),
                   width = heads * static_cast<std::size_t>(c.layout.key_dim);
        std::vector<float> y(count * heads * static_cast<std::size_t>(c.layout.value_dim), -7.0f);
        AttentionJob job;
        job.layout = c.layout;
        job.heads = c.heads;
        job.scale = 1.0f / std::sqrt(static_cast<float>(c.layout.key_dim));
        job.softcap = c.softcap;
        job.reach = c.reach();
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
        const auto key_dim = static_cast<std::size_t>(c.layout.key_dim),
                   value_dim = static_cast<std::size_t>(c.layout.value_dim),
                   kv_heads = static_cast<std::size_t>(c.layout.kv_heads), heads = static_cast<std::size_t>(c.heads);
        const double scale = 1.0f / std::sqrt(static_cast<float>(c.layout.key_dim));
        std::vector<double> out;
        for (std::size_t row = 0; row < c.positions.size(); ++row)
            for (std::size_t head = 0; head < heads; ++head) {
                const float* query = q.data() + (row * heads + head) * key_dim;
                double sum = c.sinks ? std::exp(static_cast<double>(sinks[head])) : 0;
                std::vector<double> o(value_dim);
                const auto low = static_cast<std::size_t>(testing::BookHead::lowest(c.reach(), c.positions[row]));
                for (std::size_t j = low; j <= static_cast<std::size_t>(c.positions[row]); ++j) {
                    const std::size_t at = j * kv_heads + head / (heads / kv_heads);
                    const float* key = k[row].data() + at * key_dim;
                    const float* value = c.layout.latent ? key : v[row].data() + at * value_dim;
                    double score = 0;
                    for (std::size_t i = 0; i < key_dim; ++i)
                        score += static_cast<double>(query[i]) * rounded(key[i], c.layout.type);
                    score *= scale;
                    if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
                    sum += std::exp(score);
                    for (std::size_t i = 0; i < value_dim; ++i)
                        o[i] += std::exp(score) * rounded(value[i], c.layout.type);
                }
                for (const double element : o) out.push_back(element / sum);
            }
        return out;
    }
};

std::vector<Case> every_case() {
    std::vector<Case> cases;
    const std::vector<std::int64_t> edges = {0, 1, 15, 62, 63, 64, 65, 127, 511, 512, 513, 1025};
    for (KvType type : {KvType::f32, KvType::bf16, KvType::f16}) {
        cases.push_back({{type, 2, 32, 32}, 8, 0, false, edges});
        cases.push_back({{type, 1, 20, 20}, 3, 100, true, edges});
    }
    for (int group : {1, 2, 5, 7}) cases.push_back({{KvType::f32, 3, 16, 16}, 3 * group, 0, group % 2 == 0, {70, 600}});
    for (int dim : {2, 6, 18, 48, 128, 130}) cases.push_back({{KvType::bf16, 1, dim, dim}, 4, 0, false, {66, 530}});
    for (std::int64_t window : {1, 2, 63, 64, 65, 512, 513, 2000})
        cases.push_back({{KvType::f32, 2, 16, 16}, 4, window, window % 2 == 0, {0, 63, 64, 513, 1025}});
    cases.push_back({{KvType::f32, 1, 16, 16}, 1, 0, false, {5000}});  // one item, many segments
    for (KvType type : {KvType::f32, KvType::bf16, KvType::f16}) {
        for (const auto& [keys, values] : {std::pair{48, 32}, {24, 40}, {6, 17}, {64, 2}}) {
            cases.push_back({{type, 2, keys, values}, 6, 0, true, {0, 63, 64, 530}});
            if (keys >= values) cases.push_back({{type, 1, keys, values, true}, 5, 0, false, {0, 63, 64, 530}});
        }
        cases.push_back({{type, 2, 24, 16, true}, 4, 70, true, {0, 63, 64, 530}, 0, 2.0f});
    }
    for (int heads : {37, 40, 128}) {
        cases.push_back({{KvType::bf16, 1, 16, 16}, heads, 0, heads == 37, {66, 530}});
        cases.push_back({{KvType::bf16, 1, 34, 18, true}, heads, 0, heads == 40, {66, 530}});
    }
    cases.push_back({{KvType::f32, 2, 16, 16}, 80, 100, true, {66, 530}, 0, 1.0f});
    for (std::int64_t chunk : {1, 3, 64, 100, 512, 700, 5000})
        cases.push_back({{KvType::f32, 1, 16, 16}, 3, chunk == 100 ? 50 : 0, chunk % 2 == 1, edges, chunk});
    for (float softcap : {0.5f, 50.0f}) cases.push_back({{KvType::f16, 1, 20, 20}, 4, 0, false, edges, 0, softcap});
    return cases;
}

TEST(Attention, ScalarIsCloseToDoublePrecision) {
    for (const Case& c : every_case()) {
        const Batch batch(c);
        EXPECT_LT(testing::nmse(batch.run(scalar_compute()), batch.reference()), 1e-12) << c.name();
    }
}

TEST(Attention, EveryTableGivesTheScalarBits) {
    const auto computes = every_compute();
    for (const Case& c : every_case()) {
        const Batch batch(c, 3);
        const std::vector<float> expected = batch.run(scalar_compute());
        for (const auto& [name, compute] : computes) {
            SCOPED_TRACE(name + ", " + c.name());
            const testing::FlushSubnormals flush;
            expect_same_bits(batch.run(*compute), expected);
        }
    }
}

TEST(Attention, ARowDoesNotSeeItsNeighbours) {
    const Batch batch({{KvType::f32, 2, 24, 24}, 4, 0, true, {0, 64, 1025, 512, 63, 700}});
    for (const auto& [name, compute] : every_compute()) {
        SCOPED_TRACE(name);
        const std::vector<float> together = batch.run(*compute);
        for (std::size_t row = 0; row < 6; ++row)
            expect_same_bits(batch.run(*compute, row, 1), std::span(together).subspan(row * 4 * 24, 4 * 24));
    }
}

TEST(Attention, WindowAsLongAsTheContextChangesNothing) {
    Case c{{KvType::f32, 1, 16, 16}, 2, 0, false, {600}};
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
        const KvLayout layout{type, 1, 4, 4};
        const AlignedBytes block = aligned_bytes(layout.block_bytes());
        std::byte* const blocks[] = {block.get()};
        const std::int64_t position = 3;
        const auto append = [&](float k, float v) {
            const float keys[] = {1, k, 2, 3}, values[] = {1, 2, v, 3};
            kv_append(scalar_compute(), layout, keys, values, &position, blocks, 1);
        };
        const auto append_latent = [&](float last) {
            const float keys[] = {1, 2, 3, last};
            kv_append(scalar_compute(), {type, 1, 4, 3, true}, keys, nullptr, &position, blocks, 1);
        };
        EXPECT_NO_THROW(append(held, -held));
        EXPECT_NO_THROW(append_latent(held));
        EXPECT_THROW(append_latent(refused), Error);
        for (const float bad : {refused, -refused, std::numeric_limits<float>::quiet_NaN()}) {
            EXPECT_THROW(append(bad, 0), Error);
            EXPECT_THROW(append(0, bad), Error);
        }
    }
}

TEST(KvAppend, WritesTheDocumentedPlaces) {
    for (const KvType type : {KvType::f32, KvType::bf16, KvType::f16})
        for (const auto& [key_dim, value_dim, latent] :
             {std::tuple{21, 21, false}, {5, 300, false}, {300, 7, false}, {21, 13, true}, {300, 256, true}}) {
            const KvLayout layout{type, 3, key_dim, value_dim, latent};
            const std::size_t size = bytes(type), keys = static_cast<std::size_t>(key_dim),
                              values = static_cast<std::size_t>(value_dim);
            EXPECT_EQ(layout.block_bytes(), (3 * (keys + (latent ? 0 : values)) * 64 * size + 63) / 64 * 64);
            const std::vector<float> k = normal_floats(2 * 3 * keys, 5), v = normal_floats(2 * 3 * values, 6);
            const std::int64_t positions[] = {64 + 5, 63};
            for (const auto& [name, compute] : every_compute()) {
                SCOPED_TRACE(name);
                AlignedBytes first = aligned_bytes(layout.block_bytes()), second = aligned_bytes(layout.block_bytes());
                std::byte* const blocks[] = {first.get(), second.get()};
                kv_append(*compute, layout, k.data(), latent ? nullptr : v.data(), positions, blocks, 2);
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
                    for (std::size_t head = 0; head < 3; ++head) {
                        const auto column = static_cast<std::size_t>(positions[row] % 64);
                        const std::byte *key = blocks[row] + head * keys * 64 * size,
                                        *value = blocks[row] + (3 * keys + head * values) * 64 * size;
                        for (std::size_t i = 0; i < keys; ++i)
                            EXPECT_EQ(at(key, latent ? column * keys + i : i * 64 + column),
                                      rounded(k[(row * 3 + head) * keys + i], type));
                        for (std::size_t i = 0; i < values && !latent; ++i)
                            EXPECT_EQ(at(value, column * values + i), rounded(v[(row * 3 + head) * values + i], type));
                    }
                EXPECT_TRUE(std::isnan(at(first.get(), 4)));  // other columns stay as they were
            }
        }
}

}  // namespace
}  // namespace moestro::kernels
