#include "layers/attention.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/error.h"
#include "kernels/accelerator.h"
#include "layers/linear.h"

namespace moestro::layers {

namespace {

void norm_heads(kernels::Compute& compute, const Attention& layer, const Workspace& work) {
    const WorkShape& shape = work.shape();
    const WorkArrays& at = work.arrays();
    const int q_parts = layer.whole_norm ? 1 : shape.heads, k_parts = layer.whole_norm ? 1 : shape.kv_heads;
    if (layer.q_norm)
        layer.q_norm.run(compute, at.q, work.rows() * q_parts, shape.heads / q_parts * shape.head_dim, at.q);
    if (layer.k_norm)
        layer.k_norm.run(compute, at.k, work.rows() * k_parts, shape.kv_heads / k_parts * shape.head_dim, at.k);
}

void rotate(kernels::Compute& compute, const Rotation& rotation, const Workspace& work) {
    const WorkShape& shape = work.shape();
    const RotaryTable& table = work.rotary(rotation.table);
    kernels::RopeJob job{.x = work.arrays().q,
                         .rows = work.rows(),
                         .heads = shape.heads,
                         .head_dim = shape.head_dim,
                         .half = table.half,
                         .pairs = rotation.pairs};
    kernels::rope(compute, job, table.cos, table.sin);
    job.x = work.arrays().k;
    job.heads = shape.kv_heads;
    kernels::rope(compute, job, table.cos, table.sin);
}

}  // namespace

// Of 512 positions, the most that a row sees some of.
std::int64_t Attending::most_segments(const memory::BlockTables& batch) const {
    std::int64_t most = 1;
    for (const std::int64_t position : batch.positions)
        most = std::max(most, position / kernels::kKvSegment - reach.first(position) / kernels::kKvSegment + 1);
    return most;
}

void Attending::run_there(kernels::Accelerator& there, const memory::KvPool& kv, Workspace& work) const {
    const memory::BlockTables batch = work.batch();
    const WorkArrays& at = work.arrays();
    const PlacesThere& places = work.places_there(there, kv);
    there.kv_append(kv.layout(), at.k, kv.layout().latent ? nullptr : at.v, places.positions, places.blocks,
                    kv.layer_offset(layer), work.rows());
    const kernels::AttentionJob job{.layout = kv.layout(),
                                    .heads = work.shape().heads,
                                    .scale = scale,
                                    .softcap = softcap,
                                    .reach = reach,
                                    .sinks = sinks,
                                    .q = at.q,
                                    .positions = places.positions,
                                    .block_tables = places.tables,
                                    .table_begin = places.begins,
                                    .rows = work.rows(),
                                    .y = at.attended};
    there.attention(job, kv.layer_offset(layer), most_segments(batch));
}

kernels::Accelerator::Repeat Attending::again(const void* what, kernels::Accelerator* there, const memory::KvPool& kv,
                                              Workspace& work) const {
    if (!there) return {};
    if (work.any_hole()) memory::require_visible(work.batch(), reach);
    return {what, work.places_there(*there, kv).positions, work.rows(), most_segments(work.batch())};
}

void Attending::run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const {
    if (kernels::Accelerator* const there = compute.accelerator()) return run_there(*there, kv, work);
    const memory::BlockTables batch = work.batch();
    const kernels::KvLayout& layout = kv.layout();
    memory::block_pointers(kv, layer, work.blocks(), work.scratch.blocks);
    kernels::kv_append(compute, layout, work.arrays().k, layout.latent ? nullptr : work.arrays().v,
                       batch.positions.data(), work.scratch.blocks.data(), work.rows());
    if (work.any_hole()) memory::require_visible(batch, reach);
    memory::table_pointers(kv, layer, batch.tables, work.scratch.tables);
    const kernels::AttentionJob job{.layout = layout,
                                    .heads = work.shape().heads,
                                    .scale = scale,
                                    .softcap = softcap,
                                    .reach = reach,
                                    .sinks = sinks,
                                    .q = work.arrays().q,
                                    .positions = batch.positions.data(),
                                    .block_tables = work.scratch.tables.data(),
                                    .table_begin = batch.begins.data(),
                                    .rows = work.rows(),
                                    .y = work.arrays().attended};
    kernels::attention(compute, job, work.scratch.attention);
}

void Attention::run(kernels::Compute& compute, const memory::KvPool& kv, Workspace& work) const {
    const Workspace::Use use(work, Activity::attention, over.layer);
    const WorkShape& shape = work.shape();
    const WorkArrays& at = work.arrays();
    const int rows = work.rows(), queries = shape.heads * shape.head_dim, keys = shape.kv_heads * shape.head_dim;
    require(q->spec.cols == shape.hidden && q->spec.rows == queries && k->spec.rows == keys &&
                kv.layout().kv_heads == shape.kv_heads && kv.layout().key_dim == shape.head_dim &&
                !kv.layout().latent && (!gate || shape.wide >= queries),
            ErrorKind::usage, "this workspace is for hidden ", shape.hidden, " and ", shape.heads, " over ",
            shape.kv_heads, " heads of ", shape.head_dim, ", not for the attention of layer ", over.layer);

    require(!rotation || (rotation->table >= 0 && rotation->table < work.rotary_tables()), ErrorKind::usage,
            "this workspace has ", work.rotary_tables(), " rotary embeddings; layer ", over.layer, " wants number ",
            rotation ? rotation->table : 0);
    require(!temperature || shape.query_factors, ErrorKind::usage, "this workspace has no query factors, which layer ",
            over.layer, " multiplies queries by");
    const kernels::Repeating repeating(compute.accelerator(), over.again(this, compute.accelerator(), kv, work));
    if (repeating.done()) return;
    const float* x = branch.input(compute, work);
    const std::array jobs{dense(*q, at.q), dense(*k, at.k), dense(*v, at.v), dense(gate ? *gate : *q, at.wide)};
    linear(compute, work, x, rows, std::span(jobs).first(gate ? 4 : 3));
    if (!norm_last) norm_heads(compute, *this, work);
    if (clip > 0) {
        kernels::clamp(compute, at.q, clip, std::int64_t{rows} * queries);
        kernels::clamp(compute, at.k, clip, std::int64_t{rows} * keys);
        kernels::clamp(compute, at.v, clip, std::int64_t{rows} * keys);
    }
    if (rotation) rotate(compute, *rotation, work);
    if (norm_last) norm_heads(compute, *this, work);
    if (temperature) kernels::scale_rows(compute, at.q, at.query_factors, rows, queries);
    over.run(compute, kv, work);
    if (gate) kernels::sigmoid_mul(compute, at.attended, at.wide, std::int64_t{rows} * queries);
    linear(compute, work, at.attended, rows, std::array{dense(*o, at.branch)});
    branch.add(compute, work);
}

}  // namespace moestro::layers
