// Cutting the rows of an attention call into tiles, and the memory that computing them takes. Where the cuts fall
// changes no result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

// Fewer items than this per thread leave threads idle at the end.
inline constexpr std::int64_t kItemsPerThread = 4;

// Query heads computed together: those that share a KV head, or a part of them where they are many.
int heads_per_group(const KvLayout& layout, int heads);

// The most rows of a tile for calls of `rows` rows: small enough to leave no thread idle.
int rows_per_tile(const KvLayout& layout, int heads, int rows, int threads);

// Replaces `tiles` by the job's, in order of rows, each of at most `most_rows`. Returns the rows of the largest.
int cut(const AttentionJob& job, int most_rows, std::vector<AttentionTile>& tiles);

// What a call allots, in floats, every part a multiple of 64 bytes.
struct AttentionSizes {
    QueryTile tile;  // the call's largest
    int threads = 1;

    std::size_t states() const { return state_floats(tile); }
    // One worker's: the totals and one segment's states of a tile, and what folding needs.
    std::size_t worker() const { return 2 * states() + fold_floats(tile); }
    // Segments whose states may wait together to be folded: a bound that does not grow with the context.
    std::int64_t wave() const;
};

}  // namespace moestro::kernels
