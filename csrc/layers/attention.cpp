#include "layers/attention.h"

#include <array>

#include "base/error.h"
#include "layers/linear.h"

namespace moestro::layers {

namespace {

void store(kernels::Compute& compute, const memory::KvPool& kv, int layer, Workspace& work) {
    memory::block_pointers(kv, layer, work.blocks(), work.scratch.blocks);
    kernels::kv_append(compute, kv.layout(), work.arrays().k, work.arrays().v, work.batch().positions.data(),
                       work.scratch.blocks.data(), work.rows());
}

void attend(kernels::Compute& compute, const memory::KvPool& kv, const Attention& attention, Workspace& work) {
    const memory::BlockTables batch = work.batch();
    if (work.any_hole()) memory::require_visible(batch, attention.window);
    memory::table_pointers(kv, attention.layer, batch.tables, work.scratch.tables);
    const kernels::AttentionJob job{.layout = kv.layout(),
                                    .heads = work.shape().heads,
                                    .scale = attention.scale,
                                    .window = attention.window,
                                    .q = work.arrays().q,
                                    .positions = batch.positions.data(),
                                    .block_tables = work.scratch.tables.data(),
                                    .table_begin = batch.begins.data(),
                                    .rows = work.rows(),
                                    .y = work.arrays().attended};
    kernels::attention(compute, job, work.scratch.attention);
}

}  // namespace

void Attention::run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const {
    const Workspace::Use use(work, Activity::attention, layer);
    const WorkShape& shape = work.shape();
    const WorkArrays& at = work.arrays();
    const int rows = work.rows();
    require(q->spec.cols == shape.hidden && q->spec.rows == shape.heads * shape.head_dim &&
                k->spec.rows == shape.kv_heads * shape.head_dim && kv.layout().kv_heads == shape.kv_heads &&
                kv.layout().head_dim == shape.head_dim,
            ErrorKind::usage, "this workspace is for hidden ", shape.hidden, " and ", shape.heads, " over ",
            shape.kv_heads, " heads of ", shape.head_dim, ", not for the attention of layer ", layer);

    input_norm.run(compute, at.x, rows, shape.hidden, at.normed);
    linear(compute, work, at.normed, rows, std::array{dense(*q, at.q), dense(*k, at.k), dense(*v, at.v)});
    if (q_norm.weight) q_norm.run(compute, at.q, rows * shape.heads, shape.head_dim, at.q);
    if (k_norm.weight) k_norm.run(compute, at.k, rows * shape.kv_heads, shape.head_dim, at.k);
    if (rotary) {
        kernels::rope(compute, at.q, at.cos, at.sin, rows, shape.heads, shape.head_dim);
        kernels::rope(compute, at.k, at.cos, at.sin, rows, shape.kv_heads, shape.head_dim);
    }
    store(compute, kv, layer, work);
    attend(compute, kv, *this, work);
    linear(compute, work, at.attended, rows, std::array{dense(*o, at.branch)});
    kernels::add(compute, at.x, at.branch, std::int64_t{rows} * shape.hidden);
}

}  // namespace moestro::layers
