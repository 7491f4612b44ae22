// Every block is its own mapping: releasing one returns its pages to the system at once, whatever its neighbours do.
#include "memory/kv_pool.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/types.h"

namespace moestro::memory {

namespace {
const std::string kEntry = "kv";
}

KvPool::KvPool(const kernels::KvLayout& layout, int layers, std::shared_ptr<Ledger> ledger, Lender& lender,
               std::shared_ptr<kernels::Accelerator> accelerator)
    : layout_(layout),
      layers_(layers),
      block_bytes_(round_up(layout.block_bytes() * static_cast<std::size_t>(layers), kPageBytes)),
      ledger_(std::move(ledger)),
      lender_(lender),
      accelerator_(std::move(accelerator)) {
    require(layers >= 1 && layout.kv_heads >= 1 && layout.key_dim >= 1 && layout.value_dim >= 1, ErrorKind::usage,
            "a KV pool needs at least one layer, head and channel; got ", layers, " layers of ", layout.kv_heads,
            " heads of ", layout.key_dim, " and ", layout.value_dim, " channels");
}

KvPool::~KvPool() {
    ledger_->give(kEntry, block_bytes_ * static_cast<std::size_t>(in_use_));
}

BlockId KvPool::allocate() {
    if (!ledger_->try_take(kEntry, block_bytes_)) {
        const std::size_t free = ledger_->free();
        if (free >= block_bytes_ || lender_.lend(block_bytes_ - free))
            ledger_->take(kEntry, block_bytes_);
        else
            fail(ErrorKind::budget, "no memory for one more KV block of ", bytes_text(block_bytes_),
                 " (64 positions): ", bytes_text(free), " free and ", bytes_text(lender_.can_lend()),
                 " of expert slots that could be given up; held: ", ledger_->summary(), ". Give more ",
                 accelerator_ ? "device_memory" : "host_memory", ", or run shorter or fewer sequences");
    }
    try {
        if (free_ids_.empty()) {
            blocks_.emplace_back();
            free_ids_.push_back(static_cast<BlockId>(blocks_.size()) - 1);
        }
        Block& block = blocks_[static_cast<std::size_t>(free_ids_.back())];
        block.memory = find_zeros();
        block.references = 1;
    } catch (...) {
        ledger_->give(kEntry, block_bytes_);
        throw;
    }
    ++in_use_;
    const BlockId id = free_ids_.back();
    free_ids_.pop_back();
    return id;
}

void KvPool::share(BlockId block) {
    ++used(block).references;
}

void KvPool::release(BlockId block) {
    Block& released = used(block);
    if (--released.references > 0) return;
    released.memory.reset();
    free_ids_.push_back(block);
    --in_use_;
    ledger_->give(kEntry, block_bytes_);
    lender_.returned();
}

int KvPool::references(BlockId block) const {
    const bool known = block >= 0 && static_cast<std::size_t>(block) < blocks_.size();
    return known ? blocks_[static_cast<std::size_t>(block)].references : 0;
}

void KvPool::copy(BlockId from, BlockId to) {
    if (accelerator_) return accelerator_->copy(data(to), data(from), block_bytes_);
    std::memcpy(data(to), data(from), block_bytes_);
}

std::byte* KvPool::layer_data(BlockId block, int layer) const {
    require(layer >= 0 && layer < layers_, ErrorKind::usage, "KV layer ", layer, " does not exist: 0 to ", layers_ - 1);
    return data(block) + layer_offset(layer);
}

std::byte* KvPool::data(BlockId block) const {
    return used(block).memory.get();
}

// Memory of an accelerator may be free in pieces that are all too small: then the lender gives more, until a piece is
// not.
std::shared_ptr<std::byte> KvPool::find_zeros() const {
    for (bool lent = false;; lent = true) {
        try {
            std::shared_ptr<std::byte> found = zeros();
            if (lent) lender_.returned();
            return found;
        } catch (const Error& error) {
            const std::size_t more = std::min(block_bytes_, lender_.can_lend());
            if (!accelerator_ || error.kind() != ErrorKind::budget || more == 0 || !lender_.lend(more)) throw;
        }
    }
}

std::shared_ptr<std::byte> KvPool::zeros() const {
    if (!accelerator_) {
        const auto pages = std::make_shared<PageBuffer>(block_bytes_);
        return {pages, pages->data()};
    }
    std::shared_ptr<std::byte> memory = accelerator_->allocate(block_bytes_);
    accelerator_->zero(memory.get(), block_bytes_);
    return memory;
}

std::int64_t KvPool::blocks_available() const {
    return static_cast<std::int64_t>((ledger_->free() + lender_.can_lend()) / block_bytes_);
}

const KvPool::Block& KvPool::used(BlockId block) const {
    require(references(block) > 0, ErrorKind::usage, "KV block ", block, " is not in use");
    return blocks_[static_cast<std::size_t>(block)];
}

}  // namespace moestro::memory
