#include "kernels/attention_tiles.h"

#include <algorithm>

#include "base/error.h"
#include "base/exact.h"
#include "base/types.h"

namespace moestro::kernels {

namespace {

// A block of keys and values is widened once for a tile, and its scores (256 bytes a query) stay in the first cache.
constexpr int kTileQueries = 64;
// Tiles are made smaller than that for the sake of idle threads, but not smaller than this.
constexpr int kLeastTileQueries = 24;
// Heads of one row that one item has: more of them share nothing but the block that each item widens for itself, and
// leave other threads idle.
constexpr int kMostGroup = 32;
// Queries whose segment states one thread may have under way.
constexpr int kWaveQueries = 256;

int most_rows(int group, int rows) {
    return std::min(rows, std::max(1, kTileQueries / group));
}

std::int64_t first_segment(const AttentionJob& job, std::int64_t position) {
    return job.reach.first(position) / kKvSegment;
}

// Whether a row goes on where a tile ends. Its segments must be the tile's: which states are folded, and whether the
// first of them is copied, is part of the result.
bool continues(const AttentionJob& job, const AttentionTile& tile, int row) {
    const int last = tile.row + tile.rows - 1;
    const std::int64_t position = job.positions[row];
    return job.table_begin[row] == job.table_begin[last] && position == job.positions[last] + 1 &&
           first_segment(job, position) == tile.segment && position / kKvSegment == tile.segment + tile.segments - 1;
}

}  // namespace

int heads_per_group(const KvLayout& layout, int heads) {
    MOESTRO_CHECK(layout.kv_heads > 0 && heads > 0 && heads % layout.kv_heads == 0);
    int group = heads / layout.kv_heads;
    if (group <= kMostGroup) return group;
    for (group = kMostGroup; heads / layout.kv_heads % group != 0;) --group;
    return group;
}

int rows_per_tile(const KvLayout& layout, int heads, int rows, int threads) {
    const int group = heads_per_group(layout, heads), most = most_rows(group, rows);
    if (threads == 1) return most;
    const std::int64_t least = std::min<std::int64_t>(most, ceil_div(kLeastTileQueries, group));
    const std::int64_t shared = static_cast<std::int64_t>(rows) * (heads / group) / (kItemsPerThread * threads);
    return static_cast<int>(std::clamp<std::int64_t>(shared, least, most));
}

int cut(const AttentionJob& job, int most_rows, std::vector<AttentionTile>& tiles) {
    const auto rows = static_cast<std::size_t>(job.rows);
    if (tiles.capacity() < rows) resize_exactly(tiles, rows);
    tiles.clear();
    int largest = 0;
    for (int row = 0; row < job.rows; ++row) {
        MOESTRO_CHECK(job.positions[row] >= 0);
        if (!tiles.empty() && tiles.back().rows < most_rows && continues(job, tiles.back(), row)) {
            ++tiles.back().rows;
        } else {
            const std::int64_t first = first_segment(job, job.positions[row]);
            tiles.push_back({row, 1, first, job.positions[row] / kKvSegment - first + 1, 0});
        }
        largest = std::max(largest, tiles.back().rows);
    }
    return largest;
}

std::int64_t AttentionSizes::wave() const {
    return static_cast<std::int64_t>(threads) * std::max(1, kWaveQueries / (tile.rows * tile.group));
}

std::size_t AttentionScratch::held() const {
    return floats.capacity() * sizeof(float) + tiles.capacity() * sizeof(AttentionTile);
}

std::size_t AttentionScratch::bytes(const KvLayout& layout, int heads, int rows, std::int64_t max_len, int threads) {
    const int group = heads_per_group(layout, heads), most = most_rows(group, std::max(rows, 1));
    const QueryTile row{1, group, layout.key_dim, layout.value_dim},
        tile{most, group, layout.key_dim, layout.value_dim};
    const auto workers = static_cast<std::size_t>(threads);
    std::size_t floats = workers * (2 * state_floats(tile) + fold_floats(tile));
    if (threads > 1 && max_len > kKvSegment) {  // states of a smaller tile are no more than its rows' of one row each
        const std::size_t totals =
            (static_cast<std::size_t>(kItemsPerThread) * workers - 1) * static_cast<std::size_t>(most);
        const std::size_t wave =
            workers * static_cast<std::size_t>(std::max<std::int64_t>(most, ceil_div(kWaveQueries, group)));
        floats += (totals + wave) * state_floats(row);
    }
    return (floats + 16) * sizeof(float) + static_cast<std::size_t>(rows) * sizeof(AttentionTile);
}

}  // namespace moestro::kernels
