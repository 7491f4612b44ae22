// The feed-forward half of a decoder layer: a gated MLP for every row, or a mixture of experts.
#pragma once

#include <vector>

#include "engine/runtime.h"
#include "layers/branch.h"
#include "layers/workspace.h"

namespace moestro::layers {

// Constants of one layer, borrowed, as in layers/attention.h. All calls throw Error(usage) for a workspace of another
// shape, and Error(numeric).
struct Mlp {
    int layer = 0;
    Branch branch;
    const kernels::Matrix *gate = nullptr, *up = nullptr;  // [intermediate, hidden]
    const kernels::Matrix* down = nullptr;                 // [hidden, intermediate]
    kernels::GateKind kind = kernels::GateKind::silu;

    // work.x += mlp(norm(work.x)).
    void run(kernels::Compute& compute, Workspace& work) const;
};

struct Moe {
    int layer = 0;  // of the runtime
    Branch branch;
    const kernels::Matrix* router = nullptr;  // [experts, hidden], f32
    kernels::RouterRule rule;
    const float* correction_there = nullptr;  // rule.correction, where an accelerator reaches it
    bool weigh_input = false;  // the router's weight multiplies what its one expert reads, not what it makes
    // The router reads what the router of the layer before read (Pre-gated MoE, ISCA 2024). That layer, which must
    // have experts and know this one as its next, applies it and hands the logits on.
    bool pre_gated = false;
    // Of a shared expert, beside the others; null where there is none. Its output may be multiplied by the sigmoid of
    // shared_weight [1, hidden], and half of the sum be taken.
    const kernels::Matrix *shared_gate = nullptr, *shared_up = nullptr, *shared_down = nullptr;
    const kernels::Matrix* shared_weight = nullptr;  // f32; may be null
    kernels::GateKind kind = kernels::GateKind::silu;
    bool average = false;
    // The routers of the next layers with experts, in order: asked about this layer's input where the runtime wants to
    // know (Fate, 2502.12224). Of a pre-gated one the layer before knows exactly, and earlier ones are not asked.
    struct Next {
        int layer = 0;
        const kernels::Matrix* router = nullptr;
        kernels::RouterRule rule;
        bool pre_gated = false;
    };
    std::vector<Next> next = {};

    // Routes norm(work.x) and submits it: the layer's experts are pinned or on their way when this returns. Then the
    // shared expert is computed, while they come.
    void submit(engine::Runtime& runtime, Workspace& work) const;
    // work.x += what was submitted. Throws the first failed load, named; the runtime stays usable. Throws Error(usage)
    // when nothing was submitted, or its step is over.
    void wait(engine::Runtime& runtime, Workspace& work) const;

  private:
    void choose(kernels::Compute& compute, Workspace& work) const;
    void require_room(const Workspace& work) const;
    void hand_on(kernels::Compute& compute, Workspace& work, const float* x) const;
    void look_ahead(engine::Runtime& runtime, Workspace& work, const float* x) const;
    void run_shared(kernels::Compute& compute, Workspace& work, const float* x) const;
};

}  // namespace moestro::layers
