// Multi-head latent attention (2405.04434) in its absorbed form: what is cached of a token is its latent and one
// rotated key, and every head's queries are taken to the latent instead of the latent to every head's keys.
#pragma once

#include "layers/attention.h"

namespace moestro::layers {

// Constants, borrowed, as in layers/attention.h. In the workspace a head's query and the only cached key are
// [latent | rotated part]: head_dim; a value is the latent: value_dim.
struct LatentAttention {
    Branch branch;
    Attending over;
    const kernels::Matrix* q_down = nullptr;  // [q_lora_rank, hidden]; null: q reads the layer's input
    Norm q_down_norm;
    const kernels::Matrix* q = nullptr;                      // [heads * (nope + rotated), q_lora_rank or hidden]
    const kernels::Matrix* kv_down = nullptr;                // [latent + rotated, hidden]
    Norm kv_down_norm;                                       // of the latent
    const kernels::Matrix *k_up = nullptr, *v_up = nullptr;  // by head: [latent, nope] and [values, latent], stacked
    int nope = 0, values = 0;                                // of a head
    Rotation rotation;
    const kernels::Matrix* o = nullptr;  // [hidden, heads * values]

    void run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const;

  private:
    void make_queries(kernels::Compute& compute, Workspace& work, const float* x) const;
    void make_key(kernels::Compute& compute, Workspace& work, const float* x) const;
};

}  // namespace moestro::layers
