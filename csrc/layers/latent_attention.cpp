#include "layers/latent_attention.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "layers/linear.h"

namespace moestro::layers {

namespace {

// y[r, h] = W_h x[r, h], x [rows * heads, cols] dense.
void by_head(kernels::Compute& compute, Workspace& work, const kernels::Matrix& stacked, int rows_of_one,
             const float* x, float* y, std::int64_t ldy) {
    require_held(stacked);
    const int heads = work.shape().heads;
    kernels::Activations& activations = work.scratch.activations;
    activations.prepare(compute, x, work.rows() * heads, stacked.spec.cols, quant::is_integer(stacked.spec.format));
    kernels::linear_by_head(compute, activations, {stacked, heads, rows_of_one, stacked.spec.rows / heads}, y, ldy);
}

}  // namespace

void LatentAttention::make_queries(kernels::Compute& compute, Workspace& work, const float* x) const {
    const WorkShape& shape = work.shape();
    const WorkArrays& at = work.arrays();
    const RotaryTable& table = work.rotary(rotation.table);
    const int rows = work.rows(), rotated = 2 * table.half, dim = nope + rotated;
    const std::int64_t heads = std::int64_t{rows} * shape.heads;
    if (q_down) {
        linear(compute, work, x, rows, std::array{dense(*q_down, at.narrow)});
        q_down_norm.run(compute, at.narrow, rows, q_down->spec.rows, at.narrow);
        x = at.narrow;
    }
    linear(compute, work, x, rows, std::array{dense(*q, at.wide)});
    kernels::rope(compute,
                  {.x = at.wide,
                   .rows = rows,
                   .heads = shape.heads,
                   .head_dim = dim,
                   .first = nope,
                   .half = table.half,
                   .pairs = rotation.pairs},
                  table.cos, table.sin);
    // The rotated part stays; the other goes through k_up, out of an array of its own.
    kernels::copy_rows(compute, at.wide + nope, dim, at.q + shape.value_dim, shape.head_dim, heads, rotated);
    kernels::copy_rows(compute, at.wide, dim, at.by_head, nope, heads, nope);
    by_head(compute, work, *k_up, shape.value_dim, at.by_head, at.q, shape.head_dim);
}

void LatentAttention::make_key(kernels::Compute& compute, Workspace& work, const float* x) const {
    const WorkShape& shape = work.shape();
    const WorkArrays& at = work.arrays();
    const RotaryTable& table = work.rotary(rotation.table);
    const int rows = work.rows(), latent = shape.value_dim;
    linear(compute, work, x, rows, std::array{dense(*kv_down, at.k)});
    // A norm wants dense rows.
    kernels::copy_rows(compute, at.k, shape.head_dim, at.by_head, latent, rows, latent);
    kv_down_norm.run(compute, at.by_head, rows, latent, at.by_head);
    kernels::copy_rows(compute, at.by_head, latent, at.k, shape.head_dim, rows, latent);
    kernels::rope(compute,
                  {.x = at.k,
                   .rows = rows,
                   .heads = 1,
                   .head_dim = shape.head_dim,
                   .first = latent,
                   .half = table.half,
                   .pairs = rotation.pairs},
                  table.cos, table.sin);
}

void LatentAttention::run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const {
    const Workspace::Use use(work, Activity::attention, over.layer);
    const WorkShape& shape = work.shape();
    const WorkArrays& at = work.arrays();
    require(rotation.table >= 0 && rotation.table < work.rotary_tables(), ErrorKind::usage, "this workspace has ",
            work.rotary_tables(), " rotary embeddings; layer ", over.layer, " wants number ", rotation.table);
    const int rotated = 2 * work.rotary(rotation.table).half;
    require(kv_down->spec.cols == shape.hidden && shape.kv_heads == 1 && kv.layout().latent &&
                kv.layout().key_dim == shape.head_dim && kv.layout().value_dim == shape.value_dim &&
                shape.value_dim + rotated == shape.head_dim && shape.wide >= shape.heads * (nope + rotated) &&
                shape.by_head >= shape.heads * std::max({nope, values}) && shape.by_head >= shape.value_dim &&
                (!q_down || shape.narrow >= q_down->spec.rows),
            ErrorKind::usage, "this workspace is for hidden ", shape.hidden, " and ", shape.heads,
            " heads over a latent of ", shape.value_dim, ", not for the attention of layer ", over.layer);

    const kernels::Repeating repeating(compute.accelerator(), over.again(this, compute.accelerator(), kv, work));
    if (repeating.done()) return;
    const float* x = branch.input(compute, work);
    make_queries(compute, work, x);
    make_key(compute, work, x);
    over.run(compute, kv, work);
    by_head(compute, work, *v_up, values, at.attended, at.by_head, values);
    linear(compute, work, at.by_head, work.rows(), std::array{dense(*o, at.branch)});
    branch.add(compute, work);
}

}  // namespace moestro::layers
