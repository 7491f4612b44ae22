// The attention half of a decoder layer: queries of many heads over keys and values of as many or fewer.
#pragma once

#include <optional>

#include "layers/branch.h"
#include "layers/workspace.h"
#include "memory/kv_pool.h"

namespace moestro::layers {

// What turns queries and keys by their positions.
struct Rotation {
    int table = 0;  // of the workspace's rotary tables
    kernels::RopePairs pairs = kernels::RopePairs::halves;
};

// What every kind of attention has over the keys it sees.
struct Attending {
    int layer = 0;  // of the KV pool
    float scale = 0;
    float softcap = 0;  // 0: none
    kernels::Reach reach;
    const float* sinks = nullptr;  // [heads]; may be null

    // Stores the step's keys and values, work.k and work.v, and leaves in work.attended what work.q gets of all.
    void run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const;

    // The same again, where an accelerator has recorded it: what layer runs, `what` tells.
    kernels::Accelerator::Repeat again(const void* what, kernels::Accelerator* there, const memory::KvPool& kv,
                                       Workspace& work) const;

  private:
    std::int64_t most_segments(const memory::BlockTables& batch) const;
    void run_there(kernels::Accelerator& there, const memory::KvPool& kv, Workspace& work) const;
};

// One layer's constants, borrowed; matrices may be in memory only while run() needs them (residency/layer_stream.h). A
// part that only some models have is a member that may be empty, and a line in run(): the order of operations is
// written once.
struct Attention {
    Branch branch;
    Attending over;
    const kernels::Matrix *q = nullptr, *k = nullptr,
                          *v = nullptr;  // [heads * head_dim, hidden], [kv_heads * head_dim, hidden] twice
    const kernels::Matrix* gate =
        nullptr;              // [heads * head_dim, hidden]: its sigmoid multiplies the output; may be null
    Norm q_norm, k_norm;      // may be empty
    bool whole_norm = false;  // they go over all heads together, not over each
    bool norm_last = false;   // they come after the rotation, not before
    float clip = 0;           // queries, keys and values stay within it; 0 is no limit
    std::optional<Rotation> rotation;
    bool temperature = false;            // queries are multiplied by work.query_factors
    const kernels::Matrix* o = nullptr;  // [hidden, heads * head_dim]

    // work.x += attention(norm(work.x)) over the step's places; keys and values of its rows are stored on the way.
    // Throws Error(usage) for blocks that do not exist and a workspace of another shape, Error(numeric).
    void run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const;
};

}  // namespace moestro::layers
