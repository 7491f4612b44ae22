// Where the rows of a ragged batch stand in a KvPool: block ids from a caller, checked before kernels get pointers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "memory/kv_pool.h"

namespace moestro::memory {

inline constexpr BlockId kNoBlock = -1;  // of positions wholly before a window

// Borrowed. Row r stands at positions[r] of its sequence, whose blocks are tables[begins[r]] and following.
struct BlockTables {
    std::span<const std::int64_t> positions;  // [rows]
    std::span<const BlockId> tables;
    std::span<const std::int64_t> begins;  // [rows]
};

// All throw Error(usage) naming the argument.
void require_layer(const KvPool& pool, int layer);
void require_positions(std::span<const std::int64_t> positions);
// Every row's blocks must lie inside the tables.
void require_inside(const BlockTables& batch);
// And those it looks at must exist. window: keys seen, 0 = all.
void require_visible(const BlockTables& batch, const kernels::Reach& reach);

// Where every block starts; null for kNoBlock. Throws Error(usage) for a block that is not in use.
void block_starts(const KvPool& pool, std::span<const BlockId> blocks, std::vector<std::byte*>& starts);
// The layer's part of every block. Throws Error(usage) for a block that is not in use.
void block_pointers(const KvPool& pool, int layer, std::span<const BlockId> blocks, std::vector<std::byte*>& pointers);
// The same of a table: kNoBlock is null.
void table_pointers(const KvPool& pool, int layer, std::span<const BlockId> table, std::vector<std::byte*>& pointers);

}  // namespace moestro::memory
