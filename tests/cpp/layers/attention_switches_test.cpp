// Every part that only some models' attention has, alone and with others, against single operations.
#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "base/error.h"
#include "layers/plain.h"
#include "support/refusal.h"

namespace moestro::layers {
namespace {

using testing::expect_same_bits;
using testing::Floats;
using testing::LayerWorld;
using testing::normal_floats;
using testing::refusal;
using testing::Weights;

namespace plain = testing::plain;

constexpr int kHidden = 40, kHeads = 4, kKvHeads = 2, kHeadDim = 16, kQueries = kHeads * kHeadDim,
              kKeys = kKvHeads * kHeadDim;

const WorkShape kShape{.hidden = kHidden,
                       .heads = kHeads,
                       .kv_heads = kKvHeads,
                       .head_dim = kHeadDim,
                       .rotary_halves = {8, 3},
                       .wide = kQueries,
                       .query_factors = true};

// docs/numerics.md "Attention", in its order.
Floats by_single_operations(const Attention& layer, const LayerWorld& world, const Floats& x) {
    const Floats read = plain::norm(layer.branch.before, x, kHidden);
    Floats q = plain::linear(*layer.q, read), k = plain::linear(*layer.k, read), v = plain::linear(*layer.v, read);
    const auto norms = [&] {
        q = plain::norm(layer.q_norm, q, layer.whole_norm ? kQueries : kHeadDim);
        k = plain::norm(layer.k_norm, k, layer.whole_norm ? kKeys : kHeadDim);
    };
    if (!layer.norm_last) norms();
    for (Floats* all : {&q, &k, &v})
        for (float& value : *all)
            if (layer.clip > 0) value = std::min(layer.clip, std::max(-layer.clip, value));
    if (layer.rotation) {
        world.rotate(*layer.rotation, q, kHeads, kHeadDim);
        world.rotate(*layer.rotation, k, kKvHeads, kHeadDim);
    }
    if (layer.norm_last) norms();
    for (std::size_t i = 0; layer.temperature && i < q.size(); ++i) q[i] *= world.query_factors[i / kQueries];
    Floats y = world.attend(layer.over, q, k, v);
    if (layer.gate) {
        const Floats gate = plain::linear(*layer.gate, read);
        for (std::size_t i = 0; i < y.size(); ++i) y[i] *= plain::sigmoid(gate[i]);
    }
    return plain::add(layer.branch, x, plain::linear(*layer.o, y), kHidden);
}

Attention usual(Weights& weights) {
    return {.branch = {.before = weights.rms(kHidden), .after = {}},
            .over = {.layer = 1, .scale = 0.25f, .reach = {}},
            .q = weights.matrix(kQueries, kHidden),
            .k = weights.matrix(kKeys, kHidden),
            .v = weights.matrix(kKeys, kHidden),
            .q_norm = {},
            .k_norm = {},
            .rotation = Rotation{},
            .o = weights.matrix(kHidden, kQueries)};
}

using Change = std::function<void(Attention&, Weights&)>;

const std::vector<std::pair<const char*, Change>> kSwitches = {
    {"nothing", [](Attention&, Weights&) {}},
    {"layer norm", [](Attention& a, Weights& w) { a.branch.before = w.layer_norm(kHidden, false); }},
    {"layer norm with bias", [](Attention& a, Weights& w) { a.branch.before = w.layer_norm(kHidden, true); }},
    {"sandwich", [](Attention& a, Weights& w) { a.branch.after = w.rms(kHidden); }},
    {"post", [](Attention& a, Weights& w) { a.branch = {.before = {}, .after = w.rms(kHidden)}; }},
    {"no norm", [](Attention& a, Weights&) { a.branch.before = {}; }},
    {"residual", [](Attention& a, Weights&) { a.branch.residual = 0.22f; }},
    {"post, residual",
     [](Attention& a, Weights& w) { a.branch = {.before = {}, .after = w.layer_norm(kHidden, true), .residual = 3}; }},
    {"biases",
     [](Attention& a, Weights& w) {
         a.q = w.matrix(kQueries, kHidden, true);
         a.k = w.matrix(kKeys, kHidden, true);
         a.v = w.matrix(kKeys, kHidden, true);
         a.o = w.matrix(kHidden, kQueries, true);
     }},
    {"head norms",
     [](Attention& a, Weights& w) {
         a.q_norm = w.rms(kHeadDim);
         a.k_norm = w.rms(kHeadDim);
     }},
    {"layer norms of heads",
     [](Attention& a, Weights& w) {
         a.q_norm = w.layer_norm(kHeadDim, false);
         a.k_norm = w.layer_norm(kHeadDim, true);
     }},
    {"whole norms",
     [](Attention& a, Weights& w) {
         a.whole_norm = true;
         a.q_norm = w.rms(kQueries);
         a.k_norm = w.rms(kKeys);
     }},
    {"norms last",
     [](Attention& a, Weights& w) {
         a.norm_last = true;
         a.q_norm = w.rms(kHeadDim);
         a.k_norm = w.rms(kHeadDim);
     }},
    {"clip", [](Attention& a, Weights&) { a.clip = 0.2f; }},
    {"clip after norms",
     [](Attention& a, Weights& w) {
         a.clip = 0.7f;
         a.whole_norm = true;
         a.q_norm = w.rms(kQueries);
         a.k_norm = w.rms(kKeys);
     }},
    {"no rotation", [](Attention& a, Weights&) { a.rotation.reset(); }},
    {"neighbours", [](Attention& a, Weights&) { a.rotation->pairs = kernels::RopePairs::neighbours; }},
    {"partial rotation", [](Attention& a, Weights&) { a.rotation->table = 1; }},
    {"partial rotation of neighbours",
     [](Attention& a, Weights&) {
         a.rotation = Rotation{1, kernels::RopePairs::neighbours};
     }},
    {"temperature",
     [](Attention& a, Weights&) {
         a.rotation.reset();
         a.temperature = true;
     }},
    {"gate", [](Attention& a, Weights& w) { a.gate = w.matrix(kQueries, kHidden); }},
    {"gate, post norm",
     [](Attention& a, Weights& w) {
         a.gate = w.matrix(kQueries, kHidden, true);
         a.branch = {.before = {}, .after = w.rms(kHidden)};
     }},
    {"softcap", [](Attention& a, Weights&) { a.over.softcap = 0.05f; }},
    {"window", [](Attention& a, Weights&) { a.over.reach.window = 9; }},
    {"chunk", [](Attention& a, Weights&) { a.over.reach.chunk = 10; }},
    {"sinks", [](Attention& a, Weights& w) { a.over.sinks = w.floats(kHeads); }},
    {"everything",
     [](Attention& a, Weights& w) {
         a.branch = {.before = w.layer_norm(kHidden, true), .after = w.rms(kHidden), .residual = 0.5f};
         a.over = {0, 0.3f, 0.5f, {30, 40}, w.floats(kHeads)};
         a.gate = w.matrix(kQueries, kHidden, true);
         a.q_norm = w.rms(kHeadDim);
         a.k_norm = w.rms(kHeadDim);
         a.norm_last = true;
         a.clip = 0.4f;
         a.rotation = Rotation{1, kernels::RopePairs::neighbours};
         a.temperature = true;
     }},
};

TEST(AttentionSwitches, EveryOneIsItsSingleOperations) {
    for (const auto format : {quant::Format::f32, quant::Format::q8})
        for (const int threads : {1, 3})
            for (const auto& [name, change] : kSwitches) {
                SCOPED_TRACE(std::string(name) + ", " + std::string(quant::name(format)) + ", threads " +
                             std::to_string(threads));
                Weights weights(format);
                LayerWorld world(kShape, {kernels::KvType::bf16, kKvHeads, kHeadDim, kHeadDim}, threads);
                Attention layer = usual(weights), plainer = layer;
                change(layer, weights);
                Floats before;
                unsigned seed = 70;
                for (const int rows : {40, 1, 30, 3}) {
                    const Floats x = normal_floats(static_cast<std::size_t>(rows * kHidden), ++seed);
                    world.begin(x);
                    layer.run(world.compute(), world.pool, world.work);
                    const Floats expected = by_single_operations(layer, world, x);
                    expect_same_bits(world.x(), expected);
                    if (HasFatalFailure()) return;
                    before = x;
                }
                // And it does something: the last rows differ from what they are without.
                if (std::string(name) != "nothing") {
                    const Floats with = by_single_operations(layer, world, before);
                    EXPECT_NE(with, by_single_operations(plainer, world, before));
                }
            }
}

TEST(AttentionSwitches, RefuseAWorkspaceWithoutRoomForThem) {
    Weights weights(quant::Format::f32);
    WorkShape narrow = kShape;
    narrow.wide = kQueries - 1;
    LayerWorld world(narrow, {kernels::KvType::f32, kKvHeads, kHeadDim, kHeadDim}, 1);
    Attention layer = usual(weights);
    const auto run = [&] {
        world.begin(normal_floats(kHidden, 1));
        return refusal([&] { layer.run(world.compute(), world.pool, world.work); });
    };
    EXPECT_EQ(run(), "accepted");
    layer.gate = weights.matrix(kQueries, kHidden);
    EXPECT_NE(run().find("not for the attention of layer 1"), std::string::npos);

    LayerWorld latent({.hidden = kHidden, .heads = kHeads, .kv_heads = 1, .head_dim = kHeadDim},
                      {kernels::KvType::f32, 1, kHeadDim, kHeadDim, true}, 1);
    layer = usual(weights);
    layer.k = layer.v = weights.matrix(kHeadDim, kHidden);
    latent.begin(normal_floats(kHidden, 1));
    EXPECT_NE(refusal([&] { layer.run(latent.compute(), latent.pool, latent.work); }).find("not for the attention"),
              std::string::npos)
        << "a pool of latents";
}

}  // namespace
}  // namespace moestro::layers
