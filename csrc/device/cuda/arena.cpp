#include "device/cuda/arena.h"

#include <algorithm>
#include <iterator>

#include "base/error.h"
#include "base/types.h"

namespace moestro::device::cuda {

Arena::Arena(std::byte* begin, std::size_t bytes) : begin_(begin), size_(bytes) {
    if (bytes > 0) gaps_.emplace(begin, bytes);
}

std::byte* Arena::take(std::size_t bytes) {
    const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), kAlignment);
    const auto gap = std::find_if(gaps_.begin(), gaps_.end(), [&](const auto& one) { return one.second >= size; });
    if (gap == gaps_.end()) return nullptr;
    const auto [data, room] = *gap;
    gaps_.erase(gap);
    if (room > size) gaps_.emplace(data + size, room - size);
    pieces_.emplace(data, Piece{size, bytes});
    taken_ += size;
    peak_ = std::max(peak_, taken_);
    return data;
}

void Arena::give(std::byte* data) {
    const auto piece = pieces_.find(data);
    MOESTRO_CHECK(piece != pieces_.end());
    std::size_t room = piece->second.bytes;
    taken_ -= room;
    ++changes_;
    pieces_.erase(piece);
    auto next = gaps_.lower_bound(data);
    if (next != gaps_.end() && data + room == next->first) {
        room += next->second;
        next = gaps_.erase(next);
    }
    if (next != gaps_.begin()) {
        const auto before = std::prev(next);
        if (before->first + before->second == data) {
            before->second += room;
            return;
        }
    }
    gaps_.emplace(data, room);
}

bool Arena::inside_one(const std::byte* data, std::size_t bytes) const {
    auto piece = pieces_.upper_bound(const_cast<std::byte*>(data));
    if (piece == pieces_.begin()) return false;
    --piece;
    return data + bytes <= piece->first + piece->second.asked;
}

std::size_t Arena::largest_gap() const {
    std::size_t largest = 0;
    for (const auto& [begin, bytes] : gaps_) largest = std::max(largest, bytes);
    return largest;
}

}  // namespace moestro::device::cuda
