// Memory for KV blocks of 64 positions, all layers of a block together. Which sequence owns which block is the caller's
// business (python/moestro/kv); this pool only knows bytes and references.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "memory/ledger.h"

namespace moestro::memory {

using BlockId = std::int32_t;

// Whoever holds memory that KV blocks may have: the expert cache.
class Lender {
  public:
    virtual ~Lender() = default;
    // Gives at least `bytes` back to the ledger; false, and nothing given, when it cannot without falling below what it
    // needs to work.
    virtual bool lend(std::size_t bytes) = 0;
    // Called after blocks gave bytes back to the ledger: the lender may take them again.
    virtual void returned() = 0;
    virtual std::size_t can_lend() const = 0;  // bytes, when nothing is pinned
};

// Thread-safety: one thread at a time (the step loop's).
class KvPool {
  public:
    // `lender` is asked when the ledger is full and must outlive the pool.
    // Blocks are memory of the accelerator where one is given, else of the host.
    KvPool(const kernels::KvLayout& layout, int layers, std::shared_ptr<Ledger> ledger, Lender& lender,
           std::shared_ptr<kernels::Accelerator> accelerator = nullptr);
    ~KvPool();
    KvPool(const KvPool&) = delete;
    KvPool& operator=(const KvPool&) = delete;

    // A new block with one reference, zeros. Throws Error(budget) when not even two expert slots would remain.
    BlockId allocate();
    void share(BlockId block);            // one more reference (fork)
    void release(BlockId block);          // one less; the last one gives the bytes back
    int references(BlockId block) const;  // 0 for a block that is not in use
    void copy(BlockId from, BlockId to);  // copy on write of a shared, partly filled block

    // All four above and these two throw Error(usage) for a block that is not in use.
    std::byte* layer_data(BlockId block, int layer) const;
    std::byte* data(BlockId block) const;  // of all layers; one's part is layer_offset() into it
    std::size_t layer_offset(int layer) const { return layout_.block_bytes() * static_cast<std::size_t>(layer); }
    std::size_t block_bytes() const { return block_bytes_; }  // all layers, whole pages
    int blocks_in_use() const { return in_use_; }
    // Blocks that could be allocated right now without failing, expert slots given up included.
    std::int64_t blocks_available() const;
    const kernels::KvLayout& layout() const { return layout_; }
    int layers() const { return layers_; }

  private:
    struct Block {
        std::shared_ptr<std::byte> memory;
        int references = 0;
    };
    std::shared_ptr<std::byte> zeros() const;  // block_bytes() of them
    std::shared_ptr<std::byte> find_zeros() const;
    const Block& used(BlockId block) const;
    Block& used(BlockId block) { return const_cast<Block&>(std::as_const(*this).used(block)); }

    const kernels::KvLayout layout_;
    const int layers_;
    const std::size_t block_bytes_;
    const std::shared_ptr<Ledger> ledger_;
    Lender& lender_;
    const std::shared_ptr<kernels::Accelerator> accelerator_;
    std::vector<Block> blocks_;      // by id
    std::vector<BlockId> free_ids_;  // of blocks_ without memory
    int in_use_ = 0;
};

}  // namespace moestro::memory
