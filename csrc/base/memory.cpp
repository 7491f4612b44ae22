#include "base/memory.h"

#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/types.h"

namespace moestro {

PageBuffer::PageBuffer(std::size_t bytes, bool huge) : size_(round_up(bytes, kPageBytes)) {
    if (size_ == 0) return;
    void* mapped = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED)
        fail(ErrorKind::budget, "the system refused ", size_, " bytes of memory (", std::strerror(errno), ")");
    data_ = static_cast<std::byte*>(mapped);
    if (huge) ::madvise(data_, size_, MADV_HUGEPAGE);
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
