// Memory that reads land in when their bytes cannot go straight to where they are needed: one range, handed out in
// page-aligned pieces.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "base/memory.h"
#include "memory/ledger.h"

namespace moestro::memory {

// Ledger entry "staging". Thread-safety: one thread at a time. Pieces are given back in any order; when all are back,
// the whole range is one piece again, so waiting for reads in flight always makes room.
class Staging {
  public:
    // Throws Error(budget) when the ledger has no room. `bytes` is a multiple of 4096.
    Staging(std::shared_ptr<Ledger> ledger, std::size_t bytes);

    // The first gap that is large enough, in whole pages; an empty span when there is none now.
    std::span<std::byte> take(std::size_t bytes);
    void give(std::span<std::byte> piece);

    std::span<std::byte> memory() const { return buffer_.span(); }  // for registering with a reader
    std::size_t capacity() const { return buffer_.size(); }
    bool idle() const { return taken_.empty(); }

  private:
    struct Extent {
        std::size_t begin = 0, end = 0;
    };

    Reservation reservation_;
    PageBuffer buffer_;
    std::vector<Extent> taken_;  // ascending, apart from each other
};

}  // namespace moestro::memory
