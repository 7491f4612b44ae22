#include "memory/staging.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/types.h"

namespace moestro::memory {

Staging::Staging(std::shared_ptr<Ledger> ledger, std::size_t bytes)
    : reservation_(std::move(ledger), "staging", bytes), buffer_(bytes, true) {
    MOESTRO_CHECK(bytes > 0 && bytes % kPageBytes == 0);
}

std::span<std::byte> Staging::take(std::size_t bytes) {
    MOESTRO_CHECK(bytes > 0 && bytes <= capacity());
    const std::size_t wanted = round_up(bytes, kPageBytes);
    std::size_t begin = 0;
    auto after = taken_.begin();
    for (; after != taken_.end() && after->begin - begin < wanted; ++after) begin = after->end;
    if (after == taken_.end() && capacity() - begin < wanted) return {};
    taken_.insert(after, Extent{begin, begin + wanted});
    return buffer_.span().subspan(begin, bytes);
}

void Staging::give(std::span<std::byte> piece) {
    const std::size_t begin = static_cast<std::size_t>(piece.data() - buffer_.data());
    const auto extent = std::find_if(taken_.begin(), taken_.end(), [&](const Extent& e) { return e.begin == begin; });
    MOESTRO_CHECK(extent != taken_.end());
    taken_.erase(extent);
}

}  // namespace moestro::memory
