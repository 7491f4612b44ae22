// Attention over block tables. An item is a tile of query rows and one KV head: its queries share every key and value
// read. Tiles that are much of a call and span several segments (decoding with a long context) are split: their
// segments are computed as items of their own, wave by wave, and folded in order after each.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>

#include "base/exact.h"
#include "kernels/attention_tiles.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {

// Multiply-adds below which waking other threads costs more than it saves.
constexpr std::int64_t kAlone = 1 << 18;

class Attending {
  public:
    Attending(Compute& compute, const AttentionJob& job, const AttentionSizes& sizes)
        : compute_(compute), table_(compute.table()), job_(job), sizes_(sizes) {}

    // Puts the tiles to split last and returns their number.
    std::int64_t choose(std::span<AttentionTile> tiles) const;
    // Floats of scratch, given how many tiles to split.
    std::size_t floats(std::int64_t split) const;

    void whole(std::span<const AttentionTile> tiles, float* scratch) const;
    void split(std::span<AttentionTile> tiles, float* scratch) const;

  private:
    // One group of heads of a split tile. Its segments are numbers unit .. unit + tile.segments - 1 of the call's.
    struct Item {
        const AttentionTile& tile;
        int group;
        std::int64_t unit;
    };

    QueryTile queries(const AttentionTile& tile) const {
        return {tile.rows, sizes_.tile.group, job_.layout.key_dim, job_.layout.value_dim};
    }
    int groups() const { return job_.heads / sizes_.tile.group; }
    // Of the first head of a group in an array [rows, heads, dim].
    std::int64_t head_offset(const AttentionTile& tile, int group, int dim) const {
        return (std::int64_t{tile.row} * job_.heads + std::int64_t{group} * sizes_.tile.group) * dim;
    }
    std::int64_t work(const AttentionTile& tile) const { return tile.rows * tile.segments; }
    std::int64_t multiply_adds(std::span<const AttentionTile> tiles) const;

    void attend(const AttentionTile& tile, int kv_head, std::int64_t segment, float* states, float* scratch) const;
    bool start_with_sinks(const AttentionTile& tile, int kv_head, float* totals) const;
    void finish(const AttentionTile& tile, int kv_head, const float* totals) const;
    void fold(const Item& item, std::int64_t begin, std::int64_t end, const float* states, float* totals) const;
    Item item(std::span<const AttentionTile> tiles, std::int64_t index) const;
    std::int64_t item_with(std::span<const AttentionTile> tiles, std::int64_t unit) const;

    Compute& compute_;
    const Table& table_;
    const AttentionJob& job_;
    const AttentionSizes& sizes_;
};

std::int64_t Attending::choose(std::span<AttentionTile> tiles) const {
    const int threads = compute_.pool().threads();
    if (threads == 1) return 0;
    std::int64_t total = 0;
    for (const AttentionTile& tile : tiles) total += work(tile) * groups();
    const auto large = std::partition(tiles.begin(), tiles.end(), [&](const AttentionTile& tile) {
        return tile.segments == 1 || work(tile) * kItemsPerThread * threads <= total;
    });
    return tiles.end() - large;
}

std::size_t Attending::floats(std::int64_t split) const {
    const std::size_t workers = static_cast<std::size_t>(compute_.pool().threads()) * sizes_.worker();
    if (split == 0) return workers;
    return workers + static_cast<std::size_t>(split * groups() + sizes_.wave()) * sizes_.states();
}

std::int64_t Attending::multiply_adds(std::span<const AttentionTile> tiles) const {
    std::int64_t keys = 0;
    for (const AttentionTile& tile : tiles) {
        const std::int64_t last = job_.positions[tile.row + tile.rows - 1];
        keys += tile.rows * std::min(last + 1, tile.segments * kKvSegment);
    }
    return keys * job_.heads * (job_.layout.key_dim + job_.layout.value_dim);
}

void Attending::attend(const AttentionTile& tile, int group, std::int64_t segment, float* states,
                       float* scratch) const {
    const KvLayout& layout = job_.layout;
    const auto kv_head = static_cast<std::size_t>(group * sizes_.tile.group / (job_.heads / layout.kv_heads));
    const std::size_t key_bytes = static_cast<std::size_t>(layout.key_dim) * kKvBlock * bytes(layout.type),
                      value_bytes = static_cast<std::size_t>(layout.value_dim) * kKvBlock * bytes(layout.type);
    SegmentCall call;
    call.tile = queries(tile);
    call.position = job_.positions[tile.row];
    call.reach = job_.reach;
    call.segment = segment;
    call.blocks = job_.block_tables + job_.table_begin[tile.row];
    call.latent = layout.latent;
    call.k_offset = kv_head * key_bytes;
    call.v_offset =
        layout.latent ? call.k_offset : static_cast<std::size_t>(layout.kv_heads) * key_bytes + kv_head * value_bytes;
    call.q = job_.q + head_offset(tile, group, layout.key_dim);
    call.q_stride = std::int64_t{job_.heads} * layout.key_dim;
    call.scale = job_.scale;
    call.softcap = job_.softcap;
    call.states = states;
    call.scratch = scratch;
    table_.attend[static_cast<std::size_t>(layout.type)](call);
}

// The totals before the first segment: a sink per head. Returns false where there is none and the first segment's
// states are the totals.
bool Attending::start_with_sinks(const AttentionTile& tile, int group, float* totals) const {
    if (!job_.sinks) return false;
    const QueryTile shape = queries(tile);
    const int count = shape.rows * shape.group;
    std::fill_n(totals, state_floats(shape), 0.0f);
    for (int t = 0; t < count; ++t) {
        totals[t] = job_.sinks[group * shape.group + t % shape.group];
        totals[round_to_lanes(count) + t] = 1.0f;
    }
    return true;
}

void Attending::finish(const AttentionTile& tile, int group, const float* totals) const {
    table_.finish(totals, queries(tile), job_.y + head_offset(tile, group, job_.layout.value_dim),
                  std::int64_t{job_.heads} * job_.layout.value_dim);
}

void Attending::whole(std::span<const AttentionTile> tiles, float* scratch) const {
    const int all = groups();
    const auto one = [&](std::int64_t item, int worker) {
        const AttentionTile& tile = tiles[static_cast<std::size_t>(item / all)];
        const int group = static_cast<int>(item % all);
        float* totals = scratch + static_cast<std::size_t>(worker) * sizes_.worker();
        float *states = totals + sizes_.states(), *folding = states + sizes_.states();
        bool started = start_with_sinks(tile, group, totals);
        for (std::int64_t s = tile.segment; s < tile.segment + tile.segments; ++s) {
            attend(tile, group, s, started ? states : totals, folding);
            if (started) table_.merge(totals, states, queries(tile));
            started = true;
        }
        finish(tile, group, totals);
    };
    const std::int64_t items = static_cast<std::int64_t>(tiles.size()) * all;
    if (multiply_adds(tiles) > kAlone)
        compute_.pool().parallel_for(items, one);
    else
        compute_.pool().parallel_for(items > 0, [&](std::int64_t, int worker) {
            for (std::int64_t item = 0; item < items; ++item) one(item, worker);
        });
}

Attending::Item Attending::item(std::span<const AttentionTile> tiles, std::int64_t index) const {
    const AttentionTile& tile = tiles[static_cast<std::size_t>(index / groups())];
    const int group = static_cast<int>(index % groups());
    return {tile, group, tile.unit + group * tile.segments};
}

// The index of the item that has a unit.
std::int64_t Attending::item_with(std::span<const AttentionTile> tiles, std::int64_t unit) const {
    const auto after = std::upper_bound(tiles.begin(), tiles.end(), unit,
                                        [](std::int64_t wanted, const auto& tile) { return wanted < tile.unit; });
    const auto tile = after - 1;
    return (tile - tiles.begin()) * groups() + (unit - tile->unit) / tile->segments;
}

// Folds units [begin, end) of an item, the states of the first of which are the first of `states`.
void Attending::fold(const Item& item, std::int64_t begin, std::int64_t end, const float* states, float* totals) const {
    for (std::int64_t unit = begin; unit < end; ++unit, states += sizes_.states()) {
        if (unit == item.unit && !start_with_sinks(item.tile, item.group, totals))
            std::copy_n(states, state_floats(queries(item.tile)), totals);
        else
            table_.merge(totals, states, queries(item.tile));
    }
    if (end == item.unit + item.tile.segments) finish(item.tile, item.group, totals);
}

void Attending::split(std::span<AttentionTile> tiles, float* scratch) const {
    std::int64_t units = 0;
    for (AttentionTile& tile : tiles) {
        tile.unit = units;
        units += tile.segments * groups();
    }
    float* totals = scratch + static_cast<std::size_t>(compute_.pool().threads()) * sizes_.worker();
    float* waiting = totals + tiles.size() * static_cast<std::size_t>(groups()) * sizes_.states();
    const auto states_of = [&](std::int64_t slot) {
        return waiting + static_cast<std::size_t>(slot) * sizes_.states();
    };
    for (std::int64_t begin = 0; begin < units; begin += sizes_.wave()) {
        const std::int64_t end = std::min(units, begin + sizes_.wave());
        compute_.pool().parallel_for(end - begin, [&](std::int64_t slot, int worker) {
            const Item at = item(tiles, item_with(tiles, begin + slot));
            attend(at.tile, at.group, at.tile.segment + begin + slot - at.unit, states_of(slot),
                   scratch + static_cast<std::size_t>(worker) * sizes_.worker());
        });
        const std::int64_t first = item_with(tiles, begin), last = item_with(tiles, end - 1);
        compute_.pool().parallel_for(last - first + 1, [&](std::int64_t i, int) {
            const Item at = item(tiles, first + i);
            const std::int64_t from = std::max(begin, at.unit), to = std::min(end, at.unit + at.tile.segments);
            fold(at, from, to, states_of(from - begin), totals + static_cast<std::size_t>(first + i) * sizes_.states());
        });
    }
}

// 64-byte aligned floats inside `values`, grown to hold `count` of them.
float* aligned(std::vector<float>& values, std::size_t count) {
    constexpr std::size_t most_padding = 16;
    if (values.size() < count + most_padding) resize_exactly(values, count + most_padding);
    void* at = values.data();
    std::size_t space = values.size() * sizeof(float);
    return static_cast<float*>(std::align(64, count * sizeof(float), at, space));
}

}  // namespace

void attention(Compute& compute, const AttentionJob& job, AttentionScratch& scratch) {
    if (job.rows == 0) return;
    const int threads = compute.pool().threads();
    const int most = cut(job, rows_per_tile(job.layout, job.heads, job.rows, threads), scratch.tiles);
    const AttentionSizes sizes{{most, heads_per_group(job.layout, job.heads), job.layout.key_dim, job.layout.value_dim},
                               threads};
    const Attending attending(compute, job, sizes);
    const std::span<AttentionTile> tiles(scratch.tiles);
    const std::int64_t split = attending.choose(tiles);
    float* floats = aligned(scratch.floats, attending.floats(split));
    const auto whole = tiles.size() - static_cast<std::size_t>(split);
    attending.split(tiles.subspan(whole), floats);
    attending.whole(tiles.first(whole), floats);
}

void attention(Compute& compute, const AttentionJob& job) {
    AttentionScratch scratch;
    attention(compute, job, scratch);
}

}  // namespace moestro::kernels
