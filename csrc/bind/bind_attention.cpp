// Attention over KV blocks: block ids become pointers here, every one checked, because kernels trust their pointers.
#include <pybind11/stl.h>

#include <optional>
#include <span>
#include <vector>

#include "bind/tensor_view.h"
#include "kernels/ops.h"
#include "memory/block_tables.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

std::span<const std::int64_t> all(const View<const std::int64_t>& view) {
    return {view.data, static_cast<std::size_t>(view.size())};
}
std::span<const memory::BlockId> all(const View<const memory::BlockId>& view) {
    return {view.data, static_cast<std::size_t>(view.size())};
}

void kv_append(kernels::Compute& compute, const KvRef& kv, int layer, const py::object& k, const py::object& v,
               const py::object& positions, const py::object& blocks) {
    const auto pool = kv.open();
    memory::require_layer(*pool, layer);
    const kernels::KvLayout& layout = pool->layout();
    const auto keys = input<float>(k, "k", Shape::exactly({kAny, layout.kv_heads, layout.key_dim}));
    const std::int64_t rows = keys.shape[0];
    require(!layout.latent, ErrorKind::usage, "kv_append: this KV pool holds latents: LatentAttentionLayer fills it");
    const auto values = input<float>(v, "v", Shape::exactly({rows, layout.kv_heads, layout.value_dim}));
    const auto at = input<std::int64_t>(positions, "positions", Shape::exactly({rows}));
    const auto ids = input<std::int32_t>(blocks, "blocks", Shape::exactly({rows}));
    memory::require_positions(all(at));
    std::vector<std::byte*> pointers;
    memory::block_pointers(*pool, layer, all(ids), pointers);
    const int count = size32(rows, "k");
    py::gil_scoped_release released;
    kernels::kv_append(compute, layout, keys.data, values.data, at.data, pointers.data(), count);
}

void attention(kernels::Compute& compute, const KvRef& kv, int layer, const py::object& q, const py::object& positions,
               const py::object& tables, const py::object& table_begin, float scale, const py::object& out,
               std::int64_t window, const std::optional<py::object>& sinks) {
    const auto pool = kv.open();
    memory::require_layer(*pool, layer);
    const kernels::KvLayout& layout = pool->layout();
    const auto queries = input<float>(q, "q", Shape::exactly({kAny, kAny, layout.key_dim}));
    const std::int64_t rows = queries.shape[0], heads = queries.shape[1];
    require(heads > 0 && heads % layout.kv_heads == 0, ErrorKind::usage, "argument q: expected a multiple of ",
            layout.kv_heads, " heads, as the KV pool has; got ", heads);
    require(window >= 0, ErrorKind::usage, "argument window: expected 0 (unlimited) or a number of keys; got ", window);
    const auto at = input<std::int64_t>(positions, "positions", Shape::exactly({rows}));
    const auto blocks = input<std::int32_t>(tables, "tables", Shape::exactly({kAny}));
    const auto begins = input<std::int64_t>(table_begin, "table_begin", Shape::exactly({rows}));
    const auto y = output<float>(out, "out", Shape::exactly({rows, heads, layout.value_dim}));
    require_apart(y, "out", queries, "q");
    std::optional<View<const float>> sink_logits;
    if (sinks) sink_logits = input<float>(*sinks, "sinks", Shape::exactly({heads}));
    const memory::BlockTables batch{all(at), all(blocks), all(begins)};
    memory::require_positions(batch.positions);
    memory::require_inside(batch);
    memory::require_visible(batch, {.window = window});
    std::vector<std::byte*> pointers;
    memory::table_pointers(*pool, layer, batch.tables, pointers);
    const kernels::AttentionJob job{.layout = layout,
                                    .heads = size32(heads, "q"),
                                    .scale = scale,
                                    .reach = {.window = window},
                                    .sinks = sink_logits ? sink_logits->data : nullptr,
                                    .q = queries.data,
                                    .positions = at.data,
                                    .block_tables = pointers.data(),
                                    .table_begin = begins.data,
                                    .rows = size32(rows, "q"),
                                    .y = y.data};
    py::gil_scoped_release released;
    kernels::AttentionScratch scratch;
    kernels::attention(compute, job, scratch);
}

std::size_t attention_scratch_bytes(std::int64_t kv_heads, std::int64_t head_dim, std::int64_t heads, std::int64_t rows,
                                    std::int64_t max_len, int threads, std::int64_t value_dim) {
    const kernels::KvLayout layout{kernels::KvType::f32, size32(kv_heads, "kv_heads"), size32(head_dim, "head_dim"),
                                   size32(value_dim ? value_dim : head_dim, "value_dim")};
    require(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && max_len > 0 && threads > 0, ErrorKind::usage,
            "attention_scratch_bytes: expected heads as a multiple of kv_heads, and sizes above 0");
    return kernels::AttentionScratch::bytes(layout, size32(heads, "heads"), size32(rows, "rows"), max_len, threads);
}

}  // namespace

void bind_attention(py::module_& module) {
    module.def("kv_append", &kv_append, "compute"_a, "kv"_a, "layer"_a, "k"_a, "v"_a, "positions"_a, "blocks"_a);
    module.attr("KV_TYPES") = py::make_tuple("f32", "bf16", "f16");
    module.attr("KV_BLOCK") = kernels::kKvBlock;
    module.attr("KV_SEGMENT") = kernels::kKvSegment;
    module.def("attention_scratch_bytes", &attention_scratch_bytes, "kv_heads"_a, "head_dim"_a, "heads"_a, "rows"_a,
               "max_len"_a, "threads"_a, "value_dim"_a = 0);
    module.def("attention", &attention, "compute"_a, "kv"_a, "layer"_a, "q"_a, "positions"_a, "tables"_a,
               "table_begin"_a, "scale"_a, "out"_a, "window"_a = 0, "sinks"_a = py::none());
}

}  // namespace moestro::bind
