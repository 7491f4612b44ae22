// Attention over KV blocks: block ids become pointers here, every one checked, because kernels trust their pointers.
#include <pybind11/stl.h>

#include <algorithm>
#include <optional>
#include <vector>

#include "bind/tensor_view.h"
#include "kernels/ops.h"
#include "memory/kv_pool.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

void require_layer(const memory::KvPool& pool, int layer) {
    require(layer >= 0 && layer < pool.layers(), ErrorKind::usage, "argument layer: expected 0 to ", pool.layers() - 1,
            "; got ", layer);
}

void require_positions(const View<const std::int64_t>& positions) {
    for (std::int64_t row = 0; row < positions.size(); ++row) {
        require(positions.data[row] >= 0, ErrorKind::usage, "argument positions: expected positions from 0 on; row ",
                row, " has ", positions.data[row]);
    }
}

void kv_append(kernels::Compute& compute, const KvRef& kv, int layer, const py::object& k, const py::object& v,
               const py::object& positions, const py::object& blocks) {
    const auto pool = kv.open();
    require_layer(*pool, layer);
    const kernels::KvLayout& layout = pool->layout();
    const auto keys = input<float>(k, "k", Shape::exactly({kAny, layout.kv_heads, layout.head_dim}));
    const std::int64_t rows = keys.shape[0];
    const auto values = input<float>(v, "v", Shape::exactly(keys.shape));
    const auto at = input<std::int64_t>(positions, "positions", Shape::exactly({rows}));
    const auto ids = input<std::int32_t>(blocks, "blocks", Shape::exactly({rows}));
    require_positions(at);
    std::vector<std::byte*> pointers(static_cast<std::size_t>(rows));
    std::transform(ids.data, ids.data + rows, pointers.begin(),
                   [&](std::int32_t block) { return pool->layer_data(block, layer); });
    const int count = size32(rows, "k");
    py::gil_scoped_release released;
    kernels::kv_append(compute, layout, keys.data, values.data, at.data, pointers.data(), count);
}

// Every row's blocks must lie inside the tables, and those it looks at must exist.
void require_tables(const View<const std::int64_t>& positions, const View<const std::int64_t>& begins,
                    const View<const std::int32_t>& tables, std::int64_t window) {
    for (std::int64_t row = 0; row < positions.size(); ++row) {
        const std::int64_t position = positions.data[row], begin = begins.data[row];
        const std::int64_t last = position / kernels::kKvBlock;
        require(begin >= 0 && begin < tables.size() && last < tables.size() - begin, ErrorKind::usage,
                "argument table_begin: row ", row, " at position ", position, " needs ", last + 1,
                " blocks from index ", begin, ", but tables has ", tables.size());
        const std::int64_t oldest = window > 0 ? std::max<std::int64_t>(0, position - window + 1) : 0;
        const std::int32_t* seen = tables.data + begin + oldest / kernels::kKvBlock;
        const std::int32_t* hole = std::find(seen, tables.data + begin + last + 1, -1);
        require(hole == tables.data + begin + last + 1, ErrorKind::usage, "argument tables: row ", row, " at position ",
                position, " sees block ", hole - (tables.data + begin),
                " of its sequence, which is -1; only blocks wholly before the window may be");
    }
}

std::vector<const std::byte*> block_pointers(const memory::KvPool& pool, int layer,
                                             const View<const std::int32_t>& tables) {
    std::vector<const std::byte*> pointers(static_cast<std::size_t>(tables.size()));
    std::transform(tables.data, tables.data + tables.size(), pointers.begin(), [&](std::int32_t block) {
        return block == -1 ? nullptr : static_cast<const std::byte*>(pool.layer_data(block, layer));
    });
    return pointers;
}

void attention(kernels::Compute& compute, const KvRef& kv, int layer, const py::object& q, const py::object& positions,
               const py::object& tables, const py::object& table_begin, float scale, const py::object& out,
               std::int64_t window, const std::optional<py::object>& sinks) {
    const auto pool = kv.open();
    require_layer(*pool, layer);
    const kernels::KvLayout& layout = pool->layout();
    const auto queries = input<float>(q, "q", Shape::exactly({kAny, kAny, layout.head_dim}));
    const std::int64_t rows = queries.shape[0], heads = queries.shape[1];
    require(heads > 0 && heads % layout.kv_heads == 0, ErrorKind::usage, "argument q: expected a multiple of ",
            layout.kv_heads, " heads, as the KV pool has; got ", heads);
    require(window >= 0, ErrorKind::usage, "argument window: expected 0 (unlimited) or a number of keys; got ", window);
    const auto at = input<std::int64_t>(positions, "positions", Shape::exactly({rows}));
    const auto blocks = input<std::int32_t>(tables, "tables", Shape::exactly({kAny}));
    const auto begins = input<std::int64_t>(table_begin, "table_begin", Shape::exactly({rows}));
    const auto y = output<float>(out, "out", Shape::exactly(queries.shape));
    require_apart(y, "out", queries, "q");
    std::optional<View<const float>> sink_logits;
    if (sinks) sink_logits = input<float>(*sinks, "sinks", Shape::exactly({heads}));
    require_positions(at);
    require_tables(at, begins, blocks, window);
    const auto pointers = block_pointers(*pool, layer, blocks);
    const kernels::AttentionJob job{.layout = layout,
                                    .heads = size32(heads, "q"),
                                    .scale = scale,
                                    .window = window,
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
                                    std::int64_t max_len, int threads) {
    const kernels::KvLayout layout{kernels::KvType::f32, size32(kv_heads, "kv_heads"), size32(head_dim, "head_dim")};
    require(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && max_len > 0 && threads > 0, ErrorKind::usage,
            "attention_scratch_bytes: expected heads as a multiple of kv_heads, and sizes above 0");
    return kernels::AttentionScratch::bytes(layout, size32(heads, "heads"), size32(rows, "rows"), max_len, threads);
}

}  // namespace

void bind_attention(py::module_& module) {
    module.def("kv_append", &kv_append, "compute"_a, "kv"_a, "layer"_a, "k"_a, "v"_a, "positions"_a, "blocks"_a);
    module.attr("KV_TYPES") = py::make_tuple("f32", "bf16", "f16");
    module.attr("KV_BLOCK") = kernels::kKvBlock;
    module.def("attention_scratch_bytes", &attention_scratch_bytes, "kv_heads"_a, "head_dim"_a, "heads"_a, "rows"_a,
               "max_len"_a, "threads"_a);
    module.def("attention", &attention, "compute"_a, "kv"_a, "layer"_a, "q"_a, "positions"_a, "tables"_a,
               "table_begin"_a, "scale"_a, "out"_a, "window"_a = 0, "sinks"_a = py::none());
}

}  // namespace moestro::bind
