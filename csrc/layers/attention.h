// The attention half of a decoder layer.
#pragma once

#include "layers/norm.h"
#include "layers/workspace.h"
#include "memory/kv_pool.h"

namespace moestro::layers {

// One layer's constants, borrowed; matrices may be in memory only while run() needs them (residency/layer_stream.h). A
// part that only some models have is a member that may be empty, and a line in run(): the order of operations is
// written once.
struct Attention {
    int layer = 0;  // of the KV pool
    Norm input_norm;
    const kernels::Matrix *q = nullptr, *k = nullptr,
                          *v = nullptr;  // [heads * head_dim, hidden], [kv_heads * head_dim, hidden] twice
    Norm q_norm, k_norm;                 // of every head, before the rotation; may be empty
    float scale = 0;
    std::int64_t window = 0;             // keys seen, 0 = all
    bool rotary = true;                  // queries and keys are turned by their positions
    const kernels::Matrix* o = nullptr;  // [hidden, heads * head_dim]

    // work.x += attention(norm(work.x)) over the step's places; keys and values of its rows are stored on the way.
    // Throws Error(usage) for blocks that do not exist and a workspace of another shape, Error(numeric).
    void run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const;
};

}  // namespace moestro::layers
