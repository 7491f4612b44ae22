#include "base/memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/types.h"

namespace moestro {

namespace {

constexpr std::size_t kHugeBytes = std::size_t{2} << 20;

std::byte* map(std::size_t bytes, int access = PROT_READ | PROT_WRITE, int more = 0) {
    void* mapped = ::mmap(nullptr, bytes, access, MAP_PRIVATE | MAP_ANONYMOUS | more, -1, 0);
    if (mapped == MAP_FAILED)
        fail(ErrorKind::budget, "the system refused ", bytes, " bytes of memory (", std::strerror(errno), ")");
    return static_cast<std::byte*>(mapped);
}

// At a multiple of a huge page, so that none is lost at the ends: maps more, and gives what is over back.
std::byte* map_aligned(std::size_t bytes, int access = PROT_READ | PROT_WRITE, int more = 0) {
    std::byte* mapped = map(bytes + kHugeBytes, access, more);
    const std::size_t before =
        round_up(reinterpret_cast<std::uintptr_t>(mapped), kHugeBytes) - reinterpret_cast<std::uintptr_t>(mapped);
    if (before) ::munmap(mapped, before);
    ::munmap(mapped + before + bytes, kHugeBytes - before);
    return mapped + before;
}

}  // namespace

PageBuffer::PageBuffer(std::size_t bytes, bool huge) : size_(round_up(bytes, kPageBytes)) {
    if (size_ == 0) return;
    const bool gains = huge && size_ >= kHugeBytes;
    data_ = gains ? map_aligned(size_) : map(size_);
    if (huge) ::madvise(data_, size_, MADV_HUGEPAGE);
}

PageBuffer PageBuffer::addresses(std::size_t bytes, bool huge) {
    PageBuffer made;
    made.size_ = round_up(bytes, kPageBytes);
    if (made.size_ == 0) return made;
    const bool gains = huge && made.size_ >= kHugeBytes;
    made.data_ = gains ? map_aligned(made.size_, PROT_NONE, MAP_NORESERVE) : map(made.size_, PROT_NONE, MAP_NORESERVE);
    if (huge) ::madvise(made.data_, made.size_, MADV_HUGEPAGE);
    return made;
}

bool PageBuffer::commit(std::size_t offset, std::size_t bytes) {
    MOESTRO_CHECK(offset % kPageBytes == 0 && bytes % kPageBytes == 0 && offset + bytes <= size_);
    return bytes == 0 || ::mprotect(data_ + offset, bytes, PROT_READ | PROT_WRITE) == 0;
}

PageBuffer::~PageBuffer() {
    if (data_) ::munmap(data_, size_);
}

PageBuffer::PageBuffer(PageBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

PageBuffer& PageBuffer::operator=(PageBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
}

void PageBuffer::release(std::size_t offset, std::size_t bytes) {
    MOESTRO_CHECK(offset % kPageBytes == 0 && bytes % kPageBytes == 0 && offset + bytes <= size_);
    if (bytes) ::madvise(data_ + offset, bytes, MADV_DONTNEED);
}

}  // namespace moestro
