// Which engine is chosen, what is refused and how that is said; registered memory.
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <optional>
#include <thread>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"
#include "io/reader.h"
#include "io/temporary_file.h"

namespace moestro::io {
namespace {

// Lowers a limit of this process for a scope.
class LoweredLimit {
  public:
    LoweredLimit(__rlimit_resource what, rlim_t soft) : what_(what) {
        ::getrlimit(what_, &before_);
        const rlimit lowered{.rlim_cur = soft, .rlim_max = before_.rlim_max};
        ::setrlimit(what_, &lowered);
    }
    ~LoweredLimit() { ::setrlimit(what_, &before_); }
    LoweredLimit(const LoweredLimit&) = delete;
    LoweredLimit& operator=(const LoweredLimit&) = delete;

  private:
    __rlimit_resource what_;
    rlimit before_{};
};

std::optional<std::string> why_no_uring() {
    try {
        make_reader({.engine = "io_uring"});
        return std::nullopt;
    } catch (const Error& error) {
        return error.what();
    }
}

// This thread alone stops being allowed to pin memory beyond the limit.
bool give_up_pinning_rights() {
    __user_cap_header_struct head{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    __user_cap_data_struct rights[_LINUX_CAPABILITY_U32S_3];
    if (::syscall(SYS_capget, &head, rights) != 0) return false;
    rights[0].effective &= ~(1u << CAP_IPC_LOCK);
    return ::syscall(SYS_capset, &head, rights) == 0;
}

void expect_usage(const ReaderOptions& options) {
    try {
        make_reader(options);
        ADD_FAILURE() << "no error";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::usage) << error.what();
    }
}

TEST(MakeReader, DefaultsAreFilledIn) {
    const ReaderInfo threads = make_reader({.engine = "threads"})->info();
    EXPECT_EQ(threads.engine, "threads");
    EXPECT_EQ(threads.depth, 8);
    ASSERT_EQ(threads.refused.size(), 1u);
    EXPECT_EQ(threads.refused[0].rfind("io_uring", 0), 0u) << threads.refused[0];
    if (const auto why = why_no_uring()) GTEST_SKIP() << *why;
    const ReaderInfo chosen = make_reader({})->info();
    EXPECT_EQ(chosen.engine, "io_uring");
    EXPECT_EQ(chosen.depth, 32);
    EXPECT_TRUE(chosen.refused.empty());
}

TEST(MakeReader, OptionsOutOfRange) {
    expect_usage({.engine = "aio"});
    expect_usage({.depth = -1});
    expect_usage({.depth = 100'000});
    expect_usage({.max_read_bytes = 1000});
    expect_usage({.max_read_bytes = std::size_t{2} << 30});
}

TEST(MakeReader, AutoFallsBackAloudAndANamedEngineFails) {
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "UBSan's check of virtual tables needs a descriptor of its own, and this test leaves none";
#endif
    const TemporaryFile data(kPageBytes);
    const auto file = File::open(data.path(), File::Cache::buffered);
    const LoweredLimit no_more_descriptors(RLIMIT_NOFILE, 0);  // an io_uring is a file descriptor
    const auto why = why_no_uring();
    ASSERT_TRUE(why);
    EXPECT_NE(why->find("io_uring: "), std::string::npos) << *why;

    const auto reader = make_reader({});
    const ReaderInfo info = reader->info();
    EXPECT_EQ(info.engine, "threads");
    EXPECT_EQ(info.depth, 8);
    ASSERT_EQ(info.refused.size(), 1u);
    EXPECT_EQ(info.refused[0], *why);

    const PageBuffer memory(kPageBytes);
    const ReadRequest read{file, 0, memory.span(), 1};
    reader->submit(std::span(&read, 1));
    std::vector<Completion> done;
    reader->wait(done);
    ASSERT_EQ(done.size(), 1u);
    EXPECT_EQ(std::memcmp(memory.data(), data.contents().data(), kPageBytes), 0);
}

TEST(MakeReader, ThreadsSayThatTheyCannotRegister) {
    const PageBuffer memory(kPageBytes);
    const ReaderInfo info = make_reader({.engine = "threads", .registered = {memory.span()}})->info();
    EXPECT_EQ(info.registered_bytes, 0u);
    ASSERT_EQ(info.refused.size(), 2u);
    EXPECT_NE(info.refused[1].find("registered"), std::string::npos);
}

TEST(MakeReader, RegisteredMemoryAndOtherMemoryReadTheSame) {
    if (const auto why = why_no_uring()) GTEST_SKIP() << *why;
    constexpr std::size_t kPages = 64;
    const TemporaryFile data(kPages * kPageBytes);
    for (const File::Cache cache : {File::Cache::direct, File::Cache::buffered}) {
        const auto file = File::open(data.path(), cache);
        const PageBuffer memory(3 * kPages * kPageBytes);
        const std::size_t third = kPages * kPageBytes;
        // Given in the wrong order; the middle is left out.
        const auto reader = make_reader({.engine = "io_uring",
                                         .max_read_bytes = 8 * kPageBytes,
                                         .registered = {memory.span().last(third), memory.span().first(third)}});
        if (reader->info().registered_bytes == 0) GTEST_SKIP() << reader->info().refused.at(0);
        EXPECT_EQ(reader->info().registered_bytes, 2 * third);
        EXPECT_TRUE(reader->info().refused.empty());
        std::vector<ReadRequest> reads;
        for (std::size_t i = 0; i < 3; ++i) reads.push_back({file, 0, memory.span().subspan(i * third, third), i});
        reader->submit(reads);
        std::vector<Completion> done;
        while (reader->in_flight() > 0) reader->wait(done);
        for (const Completion& one : done) {
            EXPECT_EQ(one.error, 0);
            EXPECT_EQ(one.bytes, third);
        }
        for (std::size_t i = 0; i < 3; ++i)
            EXPECT_EQ(std::memcmp(memory.data() + i * third, data.contents().data(), third), 0) << i;
        // Half in, half out.
        const ReadRequest across{file, 0, memory.span().subspan(third - kPageBytes, 2 * kPageBytes), 9};
        reader->submit(std::span(&across, 1));
        done.clear();
        reader->wait(done);
        EXPECT_EQ(done.at(0).error, 0);
        EXPECT_EQ(std::memcmp(across.destination.data(), data.contents().data(), 2 * kPageBytes), 0);
    }
}

TEST(MakeReader, RingsThatMayNotBePinnedAreRefusedWithTheLimit) {
    if (const auto why = why_no_uring()) GTEST_SKIP() << *why;
    std::thread([] {
        const LoweredLimit nothing_pinned(RLIMIT_MEMLOCK, 0);
        ASSERT_TRUE(give_up_pinning_rights());
        const auto why = why_no_uring();
        if (!why) GTEST_SKIP() << "this kernel does not count an io_uring's rings as locked memory";
        EXPECT_NE(why->find("RLIMIT_MEMLOCK"), std::string::npos) << *why;
        EXPECT_EQ(make_reader({})->info().engine, "threads");
    }).join();
}

TEST(MakeReader, MemoryThatMayNotBePinnedIsSaidAndStillReadInto) {
    if (const auto why = why_no_uring()) GTEST_SKIP() << *why;
    const TemporaryFile data(kPageBytes);
    const auto file = File::open(data.path(), File::Cache::buffered);
    const PageBuffer memory(4 << 20);
    std::thread([&] {
        const LoweredLimit room_for_the_rings(RLIMIT_MEMLOCK, 1 << 20);
        ASSERT_TRUE(give_up_pinning_rights());
        if (const auto why = why_no_uring()) GTEST_SKIP() << *why;
        const auto reader = make_reader({.engine = "io_uring", .registered = {memory.span()}});
        const ReaderInfo info = reader->info();
        EXPECT_EQ(info.registered_bytes, 0u);
        ASSERT_EQ(info.refused.size(), 1u);
        EXPECT_NE(info.refused[0].find("RLIMIT_MEMLOCK"), std::string::npos) << info.refused[0];
        const ReadRequest read{file, 0, memory.span().first(kPageBytes), 1};
        reader->submit(std::span(&read, 1));
        std::vector<Completion> done;
        reader->wait(done);
        EXPECT_EQ(done.at(0).bytes, kPageBytes);
        EXPECT_EQ(std::memcmp(memory.data(), data.contents().data(), kPageBytes), 0);
    }).join();
}

}  // namespace
}  // namespace moestro::io
