// Pieces of one range of memory. First fit: pieces are few and large, and most of them of one size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>

namespace moestro::device::cuda {

class Arena {
  public:
    static constexpr std::size_t kAlignment = 256;

    Arena() = default;
    // `begin` is aligned.
    Arena(std::byte* begin, std::size_t bytes);

    std::byte* take(std::size_t bytes);  // null where no gap is large enough
    void give(std::byte* data);
    bool owns(const std::byte* data) const { return begin_ <= data && data < begin_ + size_; }
    bool inside_one(const std::byte* data, std::size_t bytes) const;  // all of it in one piece that was taken

    std::byte* begin() const { return begin_; }
    std::size_t size() const { return size_; }
    std::size_t taken() const { return taken_; }  // bytes, as they are rounded up
    std::size_t peak() const { return peak_; }
    std::size_t largest_gap() const;
    std::uint64_t changes() const { return changes_; }  // how often a piece was given back

  private:
    struct Piece {
        std::size_t bytes = 0, asked = 0;
    };
    std::byte* begin_ = nullptr;
    std::size_t size_ = 0, taken_ = 0, peak_ = 0;
    std::uint64_t changes_ = 0;
    std::map<std::byte*, std::size_t> gaps_;  // no two of which touch
    std::map<std::byte*, Piece> pieces_;
};

}  // namespace moestro::device::cuda
