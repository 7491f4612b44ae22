// Page-aligned anonymous memory, taken from and given back to the operating system directly, so that what a ledger
// says is held is what the process holds.
#pragma once

#include <cstddef>
#include <span>

namespace moestro {

// Owning and movable. Pages start as zeros and cost nothing until touched.
class PageBuffer {
  public:
    PageBuffer() = default;
    // Rounds `bytes` up to whole pages. Throws Error(budget) when the system refuses. `huge` asks for 2 MiB pages
    // (advice only; whether it was granted is never relied on).
    explicit PageBuffer(std::size_t bytes, bool huge = false);
    // Addresses without memory behind them, as many as one likes: they tell things apart, and cannot be read or
    // written. `huge`: where memory comes, in 2 MiB pages, if the system likes.
    static PageBuffer addresses(std::size_t bytes, bool huge = false);
    ~PageBuffer();
    PageBuffer(PageBuffer&& other) noexcept;
    PageBuffer& operator=(PageBuffer&& other) noexcept;
    PageBuffer(const PageBuffer&) = delete;
    PageBuffer& operator=(const PageBuffer&) = delete;

    std::byte* data() const noexcept { return data_; }
    std::size_t size() const noexcept { return size_; }
    std::span<std::byte> span() const noexcept { return {data_, size_}; }

    // Makes a page-aligned range of addresses readable and writable. False when the system refuses.
    bool commit(std::size_t offset, std::size_t bytes);
    // Gives the pages of a page-aligned range back; the addresses stay valid and read as zeros.
    void release(std::size_t offset, std::size_t bytes);

  private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace moestro
