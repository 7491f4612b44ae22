// Latent attention against single operations, to the bit, and against the unabsorbed form in binary64.
#include "layers/latent_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "layers/plain.h"
#include "support/refusal.h"

namespace moestro::layers {
namespace {

using kernels::RopePairs;
using testing::expect_same_bits;
using testing::Floats;
using testing::LayerWorld;
using testing::normal_floats;
using testing::refusal;
using testing::Weights;

namespace plain = testing::plain;

struct Sizes {
    int hidden = 40, heads = 3, nope = 12, rotated = 8, latent = 20, values = 10, q_rank = 24;

    int head() const { return nope + rotated; }
    int key() const { return latent + rotated; }
    WorkShape work() const {
        return {.hidden = hidden,
                .heads = heads,
                .kv_heads = 1,
                .head_dim = key(),
                .value_dim = latent,
                .rotary_halves = {rotated / 2},
                .wide = heads * head(),
                .narrow = q_rank,
                .by_head = std::max(latent, heads * std::max(nope, values))};
    }
    kernels::KvLayout layout(kernels::KvType type) const { return {type, 1, key(), latent, true}; }
};

struct Latent {
    Latent(const Sizes& of, Weights& weights, bool q_down, RopePairs pairs)
        : sizes(of),
          k_up(weights.stack(of.heads, of.latent, of.nope)),
          v_up(weights.stack(of.heads, of.values, of.latent)) {
        layer.branch = {.before = weights.rms(of.hidden), .after = {}};
        layer.over = {.layer = 1, .scale = 0.3f, .reach = {}};
        if (q_down) {
            layer.q_down = weights.matrix(of.q_rank, of.hidden, true);
            layer.q_down_norm = weights.rms(of.q_rank);
        }
        layer.q = weights.matrix(of.heads * of.head(), q_down ? of.q_rank : of.hidden);
        layer.kv_down = weights.matrix(of.key(), of.hidden, true);
        layer.kv_down_norm = weights.rms(of.latent);
        layer.k_up = k_up.all;
        layer.v_up = v_up.all;
        layer.nope = of.nope;
        layer.values = of.values;
        layer.rotation.pairs = pairs;
        layer.o = weights.matrix(of.hidden, of.heads * of.values);
    }

    Floats queries(const LayerWorld& world, const Floats& read) const {
        const Floats c =
            layer.q_down ? plain::norm(layer.q_down_norm, plain::linear(*layer.q_down, read), sizes.q_rank) : read;
        Floats q = plain::linear(*layer.q, c);
        world.rotate(layer.rotation, q, sizes.heads, sizes.head(), sizes.nope);
        return q;
    }
    Floats keys(const LayerWorld& world, const Floats& read) const {
        const Floats kv = plain::linear(*layer.kv_down, read);
        Floats turned = plain::columns(kv, sizes.key(), sizes.latent, sizes.rotated);
        world.rotate(layer.rotation, turned, 1, sizes.rotated);
        const Floats latent =
            plain::norm(layer.kv_down_norm, plain::columns(kv, sizes.key(), 0, sizes.latent), sizes.latent);
        return plain::beside(latent, sizes.latent, turned, sizes.rotated);
    }
    // y[r, h] = matrix of head h times x[r, h].
    Floats by_head(const Weights::Stack& stack, const Floats& x, int cols, int rows_of_one) const {
        Floats y;
        for (std::size_t at = 0; at * static_cast<std::size_t>(cols) < x.size(); ++at) {
            const auto begin = x.begin() + static_cast<std::ptrdiff_t>(at) * cols;
            const Floats one = plain::linear(stack.each[at % stack.each.size()]->matrix, {begin, begin + cols});
            y.insert(y.end(), one.begin(), one.begin() + rows_of_one);
        }
        return y;
    }
    Floats by_single_operations(const LayerWorld& world, const Floats& x) const {
        const Floats read = plain::norm(layer.branch.before, x, sizes.hidden);
        const Floats q = queries(world, read);
        const Floats nope = plain::columns(q, sizes.head(), 0, sizes.nope),
                     turned = plain::columns(q, sizes.head(), sizes.nope, sizes.rotated);
        const Floats absorbed =
            plain::beside(by_head(k_up, nope, sizes.nope, sizes.latent), sizes.latent, turned, sizes.rotated);
        const Floats y = world.attend(layer.over, absorbed, keys(world, read), {});
        return plain::add(layer.branch, x, plain::linear(*layer.o, by_head(v_up, y, sizes.latent, sizes.values)),
                          sizes.hidden);
    }

    Sizes sizes;
    Weights::Stack k_up, v_up;
    LatentAttention layer;
};

TEST(LatentAttention, IsItsSingleOperations) {
    for (const auto format : {quant::Format::f32, quant::Format::bf16, quant::Format::q8, quant::Format::q4})
        for (const int threads : {1, 3})
            for (const auto& [q_down, pairs, type] : {std::tuple{true, RopePairs::neighbours, kernels::KvType::bf16},
                                                      {false, RopePairs::halves, kernels::KvType::f32},
                                                      {true, RopePairs::halves, kernels::KvType::f16}}) {
                SCOPED_TRACE(std::string(quant::name(format)) + ", threads " + std::to_string(threads));
                Weights weights(format);
                const Sizes sizes;
                Latent latent(sizes, weights, q_down, pairs);
                if (!q_down) {
                    latent.layer.branch.after = weights.rms(sizes.hidden);
                    latent.layer.branch.residual = 0.5f;
                    latent.layer.over.softcap = 0.4f;
                    latent.layer.over.reach.window = 50;
                    latent.layer.over.sinks = weights.floats(sizes.heads);
                }
                LayerWorld world(sizes.work(), sizes.layout(type), threads);
                unsigned seed = 20;
                for (const int rows : {40, 1, 30, 3}) {
                    const Floats x = normal_floats(static_cast<std::size_t>(rows * sizes.hidden), ++seed);
                    world.begin(x);
                    latent.layer.run(world.compute(), world.pool, world.work);
                    expect_same_bits(world.x(), latent.by_single_operations(world, x));
                    if (HasFatalFailure()) return;
                }
            }
}

TEST(LatentAttention, ManyHeadsAndWidePartsOfThem) {
    const Sizes sizes{.hidden = 64, .heads = 40, .nope = 33, .rotated = 10, .latent = 70, .values = 50, .q_rank = 17};
    for (const auto format : {quant::Format::bf16, quant::Format::q8}) {
        Weights weights(format);
        const Latent latent(sizes, weights, true, RopePairs::neighbours);
        LayerWorld world(sizes.work(), sizes.layout(kernels::KvType::bf16), 2);
        for (const int rows : {66, 1}) {
            const Floats x = normal_floats(static_cast<std::size_t>(rows * sizes.hidden), 5);
            world.begin(x);
            latent.layer.run(world.compute(), world.pool, world.work);
            expect_same_bits(world.x(), latent.by_single_operations(world, x));
        }
    }
}

// Every head has keys and values of its own, made of the latent: what was absorbed is taken apart again.
TEST(LatentAttention, IsCloseToTheUnabsorbedForm) {
    constexpr int rows = 20;
    const Sizes sizes;
    Weights weights(quant::Format::f32);
    const Latent latent(sizes, weights, true, RopePairs::neighbours);
    LayerWorld world(sizes.work(), sizes.layout(kernels::KvType::f32), 2);
    const Floats x = normal_floats(rows * static_cast<std::size_t>(sizes.hidden), 5);
    world.begin(x);
    latent.layer.run(world.compute(), world.pool, world.work);

    const Floats read = plain::norm(latent.layer.branch.before, x, sizes.hidden);
    const Floats q = latent.queries(world, read), keys = latent.keys(world, read);
    const auto head_dim = static_cast<std::size_t>(sizes.head()), key_dim = static_cast<std::size_t>(sizes.key()),
               rank = static_cast<std::size_t>(sizes.latent), nope = static_cast<std::size_t>(sizes.nope),
               values = static_cast<std::size_t>(sizes.values), heads = static_cast<std::size_t>(sizes.heads);
    std::vector<double> attended;
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t head = 0; head < heads; ++head) {
            const Floats &k_up = latent.k_up.each[head]->values, &v_up = latent.v_up.each[head]->values;
            const float* query = q.data() + (row * heads + head) * head_dim;
            std::vector<double> y(values);
            double sum = 0;
            for (std::size_t j = 0; j <= row; ++j) {
                const float* key = keys.data() + j * key_dim;
                double score = 0;
                for (std::size_t i = 0; i < nope; ++i)
                    for (std::size_t r = 0; r < rank; ++r) score += double{query[i]} * k_up[r * nope + i] * key[r];
                for (std::size_t i = nope; i < head_dim; ++i) score += double{query[i]} * key[rank + i - nope];
                const double e = std::exp(score * double{latent.layer.over.scale});
                sum += e;
                for (std::size_t i = 0; i < values; ++i)
                    for (std::size_t r = 0; r < rank; ++r) y[i] += e * v_up[i * rank + r] * key[r];
            }
            for (const double value : y) attended.push_back(value / sum);
        }
    std::vector<float> rounded(attended.begin(), attended.end());
    const Floats made = plain::linear(*latent.layer.o, rounded);
    std::vector<double> expected;
    for (std::size_t i = 0; i < x.size(); ++i) expected.push_back(double{x[i]} + made[i]);
    EXPECT_LT(testing::nmse(world.x(), expected), 1e-12);
}

TEST(LatentAttention, RefusesAnotherWorkspaceOrPool) {
    const Sizes sizes;
    Weights weights(quant::Format::f32);
    const Latent latent(sizes, weights, true, RopePairs::neighbours);
    const auto refused = [&](const auto& spoil) {
        WorkShape shape = sizes.work();
        kernels::KvLayout layout = sizes.layout(kernels::KvType::f32);
        spoil(shape, layout);
        LayerWorld world(shape, layout, 1);
        world.begin(normal_floats(static_cast<std::size_t>(shape.hidden), 1));
        return refusal([&] { latent.layer.run(world.compute(), world.pool, world.work); });
    };
    EXPECT_EQ(refused([](WorkShape&, kernels::KvLayout&) {}), "accepted");
    const std::function<void(WorkShape&, kernels::KvLayout&)> wrong[] = {
        [](WorkShape& shape, kernels::KvLayout&) { shape.hidden = 39; },
        [](WorkShape& shape, kernels::KvLayout&) { shape.kv_heads = 3; },
        [](WorkShape& shape, kernels::KvLayout&) { shape.wide -= 1; },
        [](WorkShape& shape, kernels::KvLayout&) { shape.narrow -= 1; },
        [](WorkShape& shape, kernels::KvLayout&) { shape.by_head -= 1; },
        [](WorkShape& shape, kernels::KvLayout&) { shape.rotary_halves = {3}; },
        [](WorkShape&, kernels::KvLayout& layout) { layout.latent = false; },
        [](WorkShape&, kernels::KvLayout& layout) { layout.value_dim = 19; }};
    for (const auto& spoil : wrong)
        EXPECT_NE(refused(spoil).find("not for the attention of layer 1"), std::string::npos);
}

}  // namespace
}  // namespace moestro::layers
