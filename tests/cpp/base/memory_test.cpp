#include "base/memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/types.h"

namespace moestro {
namespace {

// Pages of the buffer that the process holds.
std::size_t resident_pages(const PageBuffer& buffer) {
    std::vector<unsigned char> resident(buffer.size() / kPageBytes);
    EXPECT_EQ(::mincore(buffer.data(), buffer.size(), resident.data()), 0);
    return static_cast<std::size_t>(
        std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return page & 1; }));
}

bool all_zero(std::span<const std::byte> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::byte byte) { return byte == std::byte{0}; });
}

// Whether the system finds memory there.
bool writable(std::byte* address) {
    const int zeros = ::open("/dev/zero", O_RDONLY);
    EXPECT_GE(zeros, 0);
    const bool could = ::read(zeros, address, 1) == 1;
    EXPECT_TRUE(could || errno == EFAULT);
    ::close(zeros);
    return could;
}

TEST(PageBuffer, WholeAlignedZeroedPages) {
    const PageBuffer buffer(kPageBytes + 1);
    EXPECT_EQ(buffer.size(), 2 * kPageBytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.data()) % kPageBytes, 0u);
    EXPECT_EQ(buffer.span().size(), buffer.size());
    EXPECT_TRUE(all_zero(buffer.span()));
}

TEST(PageBuffer, NothingIsHeldBeforeItIsTouched) {
    const PageBuffer buffer(64 * kPageBytes);
    EXPECT_EQ(resident_pages(buffer), 0u);
    buffer.data()[5 * kPageBytes] = std::byte{1};
    EXPECT_EQ(resident_pages(buffer), 1u);
}

TEST(PageBuffer, ReleaseGivesPagesBackAndKeepsTheRest) {
    PageBuffer buffer(8 * kPageBytes);
    std::fill(buffer.span().begin(), buffer.span().end(), std::byte{7});
    EXPECT_EQ(resident_pages(buffer), 8u);
    buffer.release(2 * kPageBytes, 3 * kPageBytes);
    EXPECT_EQ(resident_pages(buffer), 5u);
    EXPECT_TRUE(all_zero(buffer.span().subspan(2 * kPageBytes, 3 * kPageBytes)));
    EXPECT_EQ(buffer.data()[2 * kPageBytes - 1], std::byte{7});
    EXPECT_EQ(buffer.data()[5 * kPageBytes], std::byte{7});
    buffer.release(0, 0);
}

TEST(PageBuffer, ReleaseOutsideOrInsideAPageIsABug) {
    PageBuffer buffer(2 * kPageBytes);
    EXPECT_THROW(buffer.release(1, kPageBytes), Error);
    EXPECT_THROW(buffer.release(0, 100), Error);
    EXPECT_THROW(buffer.release(kPageBytes, 2 * kPageBytes), Error);
}

TEST(PageBuffer, MovingLeavesOneOwner) {
    PageBuffer first(kPageBytes);
    first.data()[0] = std::byte{9};
    PageBuffer second(std::move(first));
    EXPECT_EQ(first.data(), nullptr);
    EXPECT_EQ(first.size(), 0u);
    PageBuffer third;
    third = std::move(second);
    EXPECT_EQ(second.data(), nullptr);
    EXPECT_EQ(third.data()[0], std::byte{9});
}

TEST(PageBuffer, AnEmptyOneHasNoMemory) {
    const PageBuffer nothing(0);
    EXPECT_EQ(nothing.data(), nullptr);
    EXPECT_TRUE(nothing.span().empty());
}

TEST(PageBuffer, AddressesHaveNoMemory) {
    constexpr std::size_t kMore = std::size_t{1} << 38;  // than this test may touch, and room a sanitizer leaves
    PageBuffer addresses = PageBuffer::addresses(kMore + 1);
    EXPECT_EQ(addresses.size(), kMore + kPageBytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(addresses.data()) % kPageBytes, 0u);
    EXPECT_NO_THROW(addresses.release(kPageBytes, 2 * kPageBytes));
    EXPECT_FALSE(writable(addresses.data()));
    EXPECT_FALSE(writable(addresses.data() + kMore));
    const PageBuffer memory(kPageBytes);
    EXPECT_TRUE(writable(memory.data()));
    const PageBuffer moved = std::move(addresses);
    EXPECT_EQ(addresses.data(), nullptr);
    EXPECT_NE(moved.data(), nullptr);
    EXPECT_EQ(PageBuffer::addresses(0).data(), nullptr);
}

TEST(PageBuffer, WhatTheSystemRefusesIsABudgetError) {
    try {
        const PageBuffer too_much(std::size_t{1} << 60);
        ADD_FAILURE() << "no error";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::budget);
    }
}

}  // namespace
}  // namespace moestro
