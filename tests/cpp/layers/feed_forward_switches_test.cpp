// Dense and mixed feed-forward halves with every part that only some models have, and the head, against single
// operations.
#include <gtest/gtest.h>

#include <functional>
#include <initializer_list>
#include <span>
#include <string>

#include "layers/feed_forward.h"
#include "layers/head.h"
#include "layers/plain.h"
#include "support/refusal.h"
#include "support/toy_model.h"

namespace moestro::layers {
namespace {

using kernels::GateKind;
using kernels::RouterRule;
using testing::expect_same_bits;
using testing::Floats;
using testing::LayerWorld;
using testing::normal_floats;
using testing::refusal;
using testing::ToyModel;
using testing::Weights;

namespace plain = testing::plain;

constexpr int kHidden = 48, kWidth = 40, kExperts = 6, kShared = 23;

WorkShape shape() {
    return {.hidden = kHidden,
            .heads = 1,
            .kv_heads = 1,
            .head_dim = 2,
            .experts = kExperts,
            .top_k = 3,
            .shared = true,
            .weighed = true,
            .pre_gated = true};
}

const kernels::KvLayout kLayout{kernels::KvType::f32, 1, 2, 2};

std::vector<Branch> branches(Weights& weights) {
    return {{.before = weights.rms(kHidden), .after = {}},
            {.before = weights.layer_norm(kHidden, true), .after = {}},
            {.before = weights.rms(kHidden), .after = weights.rms(kHidden), .residual = 0.22f},
            {.before = {}, .after = weights.layer_norm(kHidden, false)}};
}

Mlp dense(Weights& weights, bool bias = false) {
    return {.layer = 1,
            .branch = {},
            .gate = weights.matrix(kWidth, kHidden, bias),
            .up = weights.matrix(kWidth, kHidden, bias),
            .down = weights.matrix(kHidden, kWidth, bias)};
}

TEST(MlpSwitches, EveryGateAndWiringIsItsSingleOperations) {
    for (const auto format : {quant::Format::f32, quant::Format::bf16, quant::Format::q8, quant::Format::q4})
        for (const int threads : {1, 3}) {
            Weights weights(format);
            LayerWorld world(shape(), kLayout, threads);
            for (const Branch& branch : branches(weights))
                for (const GateKind kind : {GateKind::silu, GateKind::gelu_tanh, GateKind::clamped_swiglu}) {
                    SCOPED_TRACE(std::string(quant::name(format)) + ", gate " + std::to_string(static_cast<int>(kind)));
                    Mlp layer = dense(weights, kind != GateKind::silu);
                    layer.branch = branch;
                    layer.kind = kind;
                    const Floats x = normal_floats(5 * kHidden, 3, 4.0f);
                    world.begin(x);
                    layer.run(world.compute(), world.work);
                    const Floats read = plain::norm(branch.before, x, kHidden);
                    expect_same_bits(
                        world.x(),
                        plain::add(branch, x, plain::mlp(*layer.gate, *layer.up, *layer.down, kind, read), kHidden));
                    if (HasFatalFailure()) return;
                }
        }
}

TEST(MlpSwitches, AParallelHalfReadsWhatTheOneBeforeItRead) {
    Weights weights(quant::Format::q8);
    LayerWorld world(shape(), kLayout, 2);
    Mlp first = dense(weights), second = dense(weights);
    first.branch = {.before = weights.layer_norm(kHidden, false), .after = {}};
    second.branch = {.before = {}, .after = {}, .reads_last = true, .residual = 0.5f};
    const Floats x = normal_floats(3 * kHidden, 3);
    world.begin(x);
    first.run(world.compute(), world.work);
    second.run(world.compute(), world.work);
    const Floats read = plain::norm(first.branch.before, x, kHidden);
    const Floats half =
        plain::add(first.branch, x, plain::mlp(*first.gate, *first.up, *first.down, GateKind::silu, read), kHidden);
    expect_same_bits(world.x(),
                     plain::add(second.branch, half,
                                plain::mlp(*second.gate, *second.up, *second.down, GateKind::silu, read), kHidden));
}

// A model of MoE layers, their experts with a gate and biases of choice.
struct MoeWorld {
    MoeWorld(quant::Format format, int threads, GateKind kind, bool biases, const WorkShape& of = shape(),
             int layers = 1, const std::string& prefetch = "none")
        : toy({.format = format, .layers = layers, .experts = kExperts, .hidden = kHidden, .intermediate = kWidth}),
          world(of, kLayout, threads, prefetch),
          all(toy.packed(world.runtime.open_file(toy.packed_path()))) {
        for (store::ExpertLayer& experts : all) {
            experts.kind = kind;
            if (!biases) continue;
            for (std::size_t part = 0; part < 3; ++part)
                experts.biases[part] = normal_floats(
                    static_cast<std::size_t>(kExperts) * static_cast<std::size_t>(experts.parts()[part]->spec.rows),
                    40 + static_cast<unsigned>(part));
        }
        world.runtime.set_experts(all);
    }

    // The layers over x, in a step of their own. Where the first reads what another half read, that one comes first.
    Floats run(std::span<const Moe> layers, const Floats& x, const Mlp* before = nullptr) {
        world.begin(x);
        world.runtime.begin_step(world.work.rows(), {});
        if (before) before->run(world.compute(), world.work);
        for (const Moe& layer : layers) {
            layer.submit(world.runtime, world.work);
            layer.wait(world.runtime, world.work);
        }
        world.runtime.end_step({});
        return world.x();
    }
    Floats run(const Moe& layer, const Floats& x, const Mlp* before = nullptr) { return run({&layer, 1}, x, before); }

    // What the half adds to the stream.
    Floats by_single_operations(const Moe& layer, const Floats& read) const {
        return by_single_operations(layer, read, read);
    }
    Floats by_single_operations(const Moe& layer, const Floats& read, const Floats& router_reads) const {
        const int position = (layer.layer - 1) / 2;
        const store::ExpertLayer& experts = all[static_cast<std::size_t>(position)];
        const Floats logits = plain::linear(*layer.router, router_reads);
        const int rows = plain::rows_of(read, kHidden), top_k = layer.rule.top_k;
        std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * top_k));
        Floats weights(ids.size()), y(read.size(), 0.0f);
        kernels::route(testing::scalar_compute(), layer.rule, logits.data(), rows, kExperts, ids.data(),
                       weights.data());
        for (std::size_t pair = 0; pair < ids.size(); ++pair) {
            const auto row = static_cast<std::ptrdiff_t>(pair) / top_k * kHidden;
            Floats x(read.begin() + row, read.begin() + row + kHidden);
            for (float& value : x)
                if (layer.weigh_input) value *= weights[pair];
            std::array<kernels::Matrix, 3> matrices;
            for (std::size_t part = 0; part < 3; ++part)
                matrices[part] = {toy.record(position, ids[pair]) + experts.parts()[part]->offset,
                                  experts.parts()[part]->spec, experts.bias(static_cast<int>(part), ids[pair])};
            const Floats made = plain::mlp(matrices[0], matrices[1], matrices[2], experts.kind, x);
            for (std::size_t i = 0; i < made.size(); ++i) {
                float& sum = y[static_cast<std::size_t>(row) + i];
                sum = std::fma(layer.weigh_input ? 1.0f : weights[pair], made[i], sum);
            }
        }
        if (layer.shared_gate) {
            Floats shared = plain::mlp(*layer.shared_gate, *layer.shared_up, *layer.shared_down, layer.kind, read);
            if (layer.shared_weight) {
                const Floats weight = plain::linear(*layer.shared_weight, read);
                for (std::size_t i = 0; i < shared.size(); ++i) shared[i] *= plain::sigmoid(weight[i / kHidden]);
            }
            for (std::size_t i = 0; i < y.size(); ++i) y[i] += shared[i];
        }
        for (float& value : y)
            if (layer.average) value *= 0.5f;
        return y;
    }

    ToyModel toy;
    LayerWorld world;
    std::vector<store::ExpertLayer> all;
};

Moe usual(const ToyModel& toy, Weights& weights, int position = 0) {
    return {.layer = toy.layer_number(position),
            .branch = {.before = weights.rms(kHidden), .after = {}},
            .router = weights.matrix(kExperts, kHidden, true, quant::Format::f32),
            .rule = {.top_k = 3, .normalise = true}};
}

void give_shared(Moe& moe, Weights& weights, bool bias = false) {
    moe.shared_gate = weights.matrix(kShared, kHidden, bias);
    moe.shared_up = weights.matrix(kShared, kHidden, bias);
    moe.shared_down = weights.matrix(kHidden, kShared, bias);
}

using Change = std::function<void(Moe&, Weights&)>;

const std::vector<std::pair<const char*, Change>> kSwitches = {
    {"nothing", [](Moe&, Weights&) {}},
    {"sandwich, residual",
     [](Moe& moe, Weights& weights) {
         moe.branch.after = weights.rms(kHidden);
         moe.branch.residual = 0.22f;
     }},
    {"post norm", [](Moe& moe, Weights& weights) { moe.branch = {.before = {}, .after = weights.rms(kHidden)}; }},
    {"sigmoid, correction, groups",
     [](Moe& moe, Weights& weights) {
         moe.rule = {.score = RouterRule::Score::sigmoid,
                     .top_k = 3,
                     .normalise = true,
                     .norm_eps = 1e-20f,
                     .scale = 2.5f,
                     .correction = weights.floats(kExperts),
                     .groups = 3,
                     .kept_groups = 2,
                     .group_best = 2};
     }},
    {"softmax of the chosen", [](Moe& moe, Weights&) { moe.rule = {.score = RouterRule::Score::chosen, .top_k = 2}; }},
    {"sparsemixer",
     [](Moe& moe, Weights&) { moe.rule = {.score = RouterRule::Score::sparsemixer, .top_k = 2, .jitter = 0.01f}; }},
    {"weighed input",
     [](Moe& moe, Weights&) {
         moe.rule = {.score = RouterRule::Score::sigmoid_of_chosen, .top_k = 1};
         moe.weigh_input = true;
     }},
    {"shared expert", [](Moe& moe, Weights& weights) { give_shared(moe, weights); }},
    {"shared expert with a weight",
     [](Moe& moe, Weights& weights) {
         give_shared(moe, weights, true);
         moe.shared_weight = weights.matrix(1, kHidden, false, quant::Format::f32);
     }},
    {"shared expert, average",
     [](Moe& moe, Weights& weights) {
         give_shared(moe, weights);
         moe.average = true;
     }},
    {"shared expert reads what was not weighed",
     [](Moe& moe, Weights& weights) {
         give_shared(moe, weights);
         moe.rule = {.score = RouterRule::Score::sigmoid_of_chosen, .top_k = 1};
         moe.weigh_input = true;
     }},
    {"everything",
     [](Moe& moe, Weights& weights) {
         give_shared(moe, weights, true);
         moe.shared_weight = weights.matrix(1, kHidden, false, quant::Format::f32);
         moe.average = true;
         moe.branch = {.before = weights.layer_norm(kHidden, true), .after = weights.rms(kHidden), .residual = 3};
     }},
};

TEST(MoeSwitches, EveryOneIsItsSingleOperations) {
    for (const auto format : {quant::Format::bf16, quant::Format::q8})
        for (const GateKind kind : {GateKind::silu, GateKind::gelu_tanh, GateKind::clamped_swiglu}) {
            const bool biases = kind != GateKind::silu;
            MoeWorld model(format, kind == GateKind::silu ? 1 : 3, kind, biases);
            Weights weights(format);
            for (const auto& [name, change] : kSwitches) {
                SCOPED_TRACE(std::string(name) + ", " + std::string(quant::name(format)) + ", gate " +
                             std::to_string(static_cast<int>(kind)));
                Moe layer = usual(model.toy, weights);
                layer.kind = kind;
                change(layer, weights);
                for (const int rows : {5, 1}) {
                    const Floats x = normal_floats(static_cast<std::size_t>(rows * kHidden), 3);
                    const Floats read = plain::norm(layer.branch.before, x, kHidden);
                    expect_same_bits(model.run(layer, x),
                                     plain::add(layer.branch, x, model.by_single_operations(layer, read), kHidden));
                    if (HasFatalFailure()) return;
                }
            }
            model.world.runtime.check_integrity();
        }
}

TEST(MoeSwitches, AParallelHalfReadsWhatTheOneBeforeItRead) {
    MoeWorld model(quant::Format::bf16, 2, GateKind::silu, false);
    Weights weights(quant::Format::bf16);
    Mlp before = dense(weights);
    before.branch = {.before = weights.layer_norm(kHidden, false), .after = {}};
    Moe layer = usual(model.toy, weights);
    layer.branch = {.before = {}, .after = {}, .reads_last = true};
    layer.rule.top_k = 1;
    layer.weigh_input = true;
    give_shared(layer, weights);
    const Floats x = normal_floats(3 * kHidden, 3);
    const Floats read = plain::norm(before.branch.before, x, kHidden);
    const Floats half =
        plain::add(before.branch, x, plain::mlp(*before.gate, *before.up, *before.down, GateKind::silu, read), kHidden);
    expect_same_bits(model.run(layer, x, &before),
                     plain::add(layer.branch, half, model.by_single_operations(layer, read), kHidden));
}

Moe::Next as_next(const Moe& layer) {
    return {layer.layer, layer.router, layer.rule, layer.pre_gated};
}

// Three layers, the later two pre-gated.
std::vector<Moe> pre_gated(const ToyModel& toy, Weights& weights) {
    std::vector<Moe> layers;
    for (int position = 0; position < 3; ++position) layers.push_back(usual(toy, weights, position));
    layers[1].branch = {.before = weights.layer_norm(kHidden, true), .after = weights.rms(kHidden), .residual = 0.22f};
    layers[1].pre_gated = layers[2].pre_gated = true;
    give_shared(layers[1], weights);
    layers[0].next = {as_next(layers[1]), as_next(layers[2])};
    layers[1].next = {as_next(layers[2])};
    return layers;
}

TEST(MoeSwitches, APreGatedLayerRoutesByWhatTheLayerBeforeRead) {
    for (const std::string prefetch : {"none", "pre_gated", "next_gate"}) {
        SCOPED_TRACE(prefetch);
        MoeWorld model(quant::Format::q8, 2, GateKind::silu, false, shape(), 3, prefetch);
        Weights weights(quant::Format::q8);
        const std::vector<Moe> layers = pre_gated(model.toy, weights);
        for (const int rows : {5, 1, 2}) {
            const Floats x = normal_floats(static_cast<std::size_t>(rows * kHidden), 3 + static_cast<unsigned>(rows));
            Floats expected = x, last;
            for (const Moe& layer : layers) {
                const Floats read = plain::norm(layer.branch.before, expected, kHidden);
                expected = plain::add(layer.branch, expected,
                                      model.by_single_operations(layer, read, layer.pre_gated ? last : read), kHidden);
                last = read;
            }
            expect_same_bits(model.run(layers, x), expected);
            if (HasFatalFailure()) return;
        }
        const auto counters = model.world.runtime.prefetch_counters();
        if (prefetch != "pre_gated") continue;
        EXPECT_EQ(counters[0].hinted, 0u);
        for (const std::size_t later : {1, 2}) {
            EXPECT_EQ(counters[later].steps, 3u);
            EXPECT_EQ(counters[later].foreseen, counters[later].needed);
            EXPECT_EQ(counters[later].foreseen, counters[later].hinted);
        }
    }
}

TEST(MoeSwitches, APreGatedLayerNeedsTheOneBeforeIt) {
    WorkShape without = shape();
    without.pre_gated = false;
    Weights weights(quant::Format::bf16);
    MoeWorld model(quant::Format::bf16, 1, GateKind::silu, false, shape(), 3);
    MoeWorld small(quant::Format::bf16, 1, GateKind::silu, false, without, 3);
    const std::vector<Moe> layers = pre_gated(model.toy, weights);
    const Floats x = normal_floats(kHidden, 3);
    const auto refused = [&](MoeWorld& in, std::initializer_list<std::size_t> order) {
        std::vector<Moe> given;
        for (const std::size_t position : order) given.push_back(layers[position]);
        const std::string said = refusal([&] { in.run(given, x); });
        if (said != "accepted") in.world.runtime.abort_step();
        return said;
    };
    EXPECT_EQ(refused(model, {0, 1, 2}), "accepted");
    EXPECT_NE(refused(model, {1}).find("layer 3 is pre-gated"), std::string::npos);
    EXPECT_NE(refused(model, {0, 2}).find("layer 5 is pre-gated"), std::string::npos);
    EXPECT_NE(refused(small, {0}).find("no room for the logits that layer 1 hands on"), std::string::npos);
    EXPECT_EQ(refused(model, {0, 1, 2}), "accepted");
}

TEST(MoeSwitches, RefuseAWorkspaceWithoutRoomForThem) {
    Weights weights(quant::Format::bf16);
    const auto refused = [&](const auto& spoil, const auto& change) {
        WorkShape of = shape();
        spoil(of);
        MoeWorld model(quant::Format::bf16, 1, GateKind::silu, false, of);
        Moe layer = usual(model.toy, weights);
        change(layer);
        return refusal([&] { model.run(layer, normal_floats(kHidden, 3)); });
    };
    const auto nothing = [](auto&) {};
    const auto shared = [&](Moe& moe) { give_shared(moe, weights); };
    const auto weighed = [](Moe& moe) {
        moe.rule.top_k = 1;
        moe.weigh_input = true;
    };
    EXPECT_EQ(refused(nothing, shared), "accepted");
    EXPECT_EQ(refused(nothing, weighed), "accepted");
    EXPECT_NE(refused([](WorkShape& of) { of.shared = false; }, shared).find("shared"), std::string::npos);
    EXPECT_NE(refused([](WorkShape& of) { of.weighed = false; }, weighed).find("weighed"), std::string::npos);
    EXPECT_NE(refused([](WorkShape& of) { of.top_k = 2; }, nothing).find("top_k 2"), std::string::npos);
    EXPECT_EQ(refused([](WorkShape& of) { of.shared = of.weighed = false; }, nothing), "accepted");
}

TEST(HeadSwitches, MultiplierSoftcapAndLayerNorm) {
    for (const auto format : {quant::Format::f32, quant::Format::q8})
        for (const int threads : {1, 2}) {
            Weights weights(format);
            LayerWorld world(shape(), kLayout, threads);
            const Norm rms = weights.rms(kHidden), layer = weights.layer_norm(kHidden, true);
            const std::vector<const kernels::Matrix*> slices{weights.matrix(32, kHidden, true),
                                                             weights.matrix(39, kHidden)};
            const Floats x = normal_floats(4 * kHidden, 3, 5.0f);
            const std::vector<std::int64_t> chosen{3, 1};
            for (const auto& [norm, multiplier, softcap] : {std::tuple{rms, 1.0f, 0.0f},
                                                            {layer, 1.0f, 0.0f},
                                                            {rms, 0.0625f, 0.0f},
                                                            {rms, 1.0f, 0.3f},
                                                            {layer, 3.0f, 0.5f}}) {
                const Head head{.norm = norm, .slices = slices, .multiplier = multiplier, .softcap = softcap};
                Floats logits(2 * 71);
                world.begin(x);
                head.run(world.compute(), world.work, chosen, logits.data());
                Floats rows;
                for (const std::int64_t row : chosen)
                    rows.insert(rows.end(), x.begin() + row * kHidden, x.begin() + (row + 1) * kHidden);
                rows = plain::norm(norm, rows, kHidden);
                Floats expected =
                    plain::beside(plain::linear(*slices[0], rows), 32, plain::linear(*slices[1], rows), 39);
                for (float& logit : expected) {
                    logit *= multiplier;
                    if (softcap > 0) kernels::scalar_table().softcap(&logit, softcap, 1);
                }
                expect_same_bits(logits, expected);
                if (HasFatalFailure()) return;
            }
        }
}

}  // namespace
}  // namespace moestro::layers
