// Memory for KV blocks of 64 positions, all layers of a block together. Which sequence owns which block is the caller's
// business (python/moestro/kv); this pool only knows bytes and references.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <vector>

#include "base/memory.h"
#include "kernels/ops.h"
#include "memory/ledger.h"

namespace moestro::memory {

using BlockId = std::int32_t;

// Thread-safety: one thread at a time (the step loop's).
class KvPool {
  public:
    // make_room(bytes) is asked when the ledger is full; it frees expert slots and says whether it did.
    KvPool(const kernels::KvLayout& layout, int layers, Ledger& ledger, std::function<bool(std::size_t)> make_room,
           std::function<void()> room_returned);
    ~KvPool();

    // One reference. Throws Error(budget) when not even two expert slots would remain.
    BlockId allocate();
    void share(BlockId block);    // one more reference (fork)
    void release(BlockId block);  // one less; the last one gives the bytes back
    int references(BlockId block) const;
    void copy(BlockId from, BlockId to);  // copy on write of a shared, partly filled block

    std::byte* layer_data(BlockId block, int layer) const;
    std::size_t block_bytes() const;  // all layers
    int blocks_in_use() const;
    // Blocks that could be allocated right now without failing, expert slots given up included.
    std::int64_t blocks_available() const;
    const kernels::KvLayout& layout() const;
};

}  // namespace moestro::memory
