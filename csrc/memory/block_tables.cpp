#include "memory/block_tables.h"

#include <algorithm>

#include "base/error.h"

namespace moestro::memory {

void require_layer(const KvPool& pool, int layer) {
    require(layer >= 0 && layer < pool.layers(), ErrorKind::usage, "argument layer: expected 0 to ", pool.layers() - 1,
            "; got ", layer);
}

void require_positions(std::span<const std::int64_t> positions) {
    for (std::size_t row = 0; row < positions.size(); ++row)
        require(positions[row] >= 0, ErrorKind::usage, "argument positions: expected positions from 0 on; row ", row,
                " has ", positions[row]);
}

void require_inside(const BlockTables& batch) {
    const auto size = static_cast<std::int64_t>(batch.tables.size());
    for (std::size_t row = 0; row < batch.positions.size(); ++row) {
        const std::int64_t position = batch.positions[row], begin = batch.begins[row];
        const std::int64_t last = position / kernels::kKvBlock;
        require(begin >= 0 && last < size - begin, ErrorKind::usage, "argument table_begin: row ", row, " at position ",
                position, " needs ", last + 1, " blocks from index ", begin, ", but tables has ", size);
    }
}

void require_visible(const BlockTables& batch, const kernels::Reach& reach) {
    for (std::size_t row = 0; row < batch.positions.size(); ++row) {
        const std::int64_t position = batch.positions[row];
        const std::int64_t oldest = reach.first(position);
        const BlockId* table = batch.tables.data() + batch.begins[row];
        const BlockId* end = table + position / kernels::kKvBlock + 1;
        const BlockId* hole = std::find(table + oldest / kernels::kKvBlock, end, kNoBlock);
        require(hole == end, ErrorKind::usage, "argument tables: row ", row, " at position ", position, " sees block ",
                hole - table, " of its sequence, which is -1; only blocks wholly before the window may be");
    }
}

void block_starts(const KvPool& pool, std::span<const BlockId> blocks, std::vector<std::byte*>& starts) {
    starts.resize(blocks.size());
    std::transform(blocks.begin(), blocks.end(), starts.begin(),
                   [&](BlockId block) { return block == kNoBlock ? nullptr : pool.data(block); });
}

void block_pointers(const KvPool& pool, int layer, std::span<const BlockId> blocks, std::vector<std::byte*>& pointers) {
    pointers.resize(blocks.size());
    std::transform(blocks.begin(), blocks.end(), pointers.begin(),
                   [&](BlockId block) { return pool.layer_data(block, layer); });
}

void table_pointers(const KvPool& pool, int layer, std::span<const BlockId> table, std::vector<std::byte*>& pointers) {
    pointers.resize(table.size());
    std::transform(table.begin(), table.end(), pointers.begin(),
                   [&](BlockId block) { return block == kNoBlock ? nullptr : pool.layer_data(block, layer); });
}

}  // namespace moestro::memory
