// The feed-forward half of a decoder layer: a gated MLP for every row, or a mixture of experts.
#pragma once

#include "engine/runtime.h"
#include "layers/norm.h"
#include "layers/workspace.h"

namespace moestro::layers {

// Constants of one layer, borrowed, as in layers/attention.h. All calls throw Error(usage) for a workspace of another
// shape, and Error(numeric).
struct Mlp {
    int layer = 0;
    Norm norm;
    const kernels::Matrix *gate = nullptr, *up = nullptr;  // [intermediate, hidden]
    const kernels::Matrix* down = nullptr;                 // [hidden, intermediate]

    // work.x += mlp(norm(work.x)).
    void run(kernels::Compute& compute, Workspace& work) const;
};

struct Moe {
    int layer = 0;  // of the runtime
    Norm norm;
    const kernels::Matrix* router = nullptr;  // [experts, hidden], f32
    int top_k = 0;
    bool normalise = false;

    // Routes norm(work.x) and submits it: the layer's experts are pinned or on their way when this returns.
    void submit(engine::Runtime& runtime, Workspace& work) const;
    // work.x += what was submitted. Throws the first failed load, named; the runtime stays usable. Throws Error(usage)
    // when nothing was submitted, or its step is over.
    void wait(engine::Runtime& runtime, Workspace& work) const;
};

}  // namespace moestro::layers
