// One suite for every engine, every way of opening a file, and several depths.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <tuple>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"
#include "io/reader.h"
#include "io/temporary_file.h"

namespace moestro::io {
namespace {

constexpr std::size_t kPieceBytes = 64 << 10;  // small, so that ordinary tests split requests

using Setting = std::tuple<std::string, File::Cache, int>;

class ReaderContract : public testing::TestWithParam<Setting> {
  protected:
    void SetUp() override {
        if (std::get<0>(GetParam()) == "io_uring") {
            try {
                make_reader({.engine = "io_uring"});
            } catch (const Error& error) {
                GTEST_SKIP() << error.what();
            }
        }
    }

    std::unique_ptr<Reader> reader() const {
        return make_reader(
            {.engine = std::get<0>(GetParam()), .depth = std::get<2>(GetParam()), .max_read_bytes = kPieceBytes});
    }
    static std::shared_ptr<const File> open(const TemporaryFile& file) {
        return File::open(file.path(), std::get<1>(GetParam()));
    }
};

std::map<std::uint64_t, Completion> collect(Reader& reader) {
    std::map<std::uint64_t, Completion> by_tag;
    std::vector<Completion> done;
    while (reader.in_flight() > 0) reader.wait(done);
    for (const Completion& one : done) EXPECT_TRUE(by_tag.emplace(one.tag, one).second) << "tag twice: " << one.tag;
    return by_tag;
}

// What a read of [offset, offset + length) has to bring: the file's bytes as far as it goes.
void expect_read(const Completion& got, const ReadRequest& read, const TemporaryFile& file) {
    const std::size_t size = file.contents().size();
    const std::size_t begin = std::min<std::size_t>(read.offset, size);
    const std::size_t end = std::min(begin + read.destination.size(), size);
    EXPECT_EQ(got.error, 0);
    ASSERT_EQ(got.bytes, end - begin) << "offset " << read.offset << " length " << read.destination.size();
    if (got.bytes > 0) {
        EXPECT_EQ(std::memcmp(read.destination.data(), file.contents().data() + begin, got.bytes), 0);
    }
}

TEST_P(ReaderContract, RandomExtentsBringTheFilesBytes) {
    const TemporaryFile data(1'000'003);
    const auto file = open(data);
    const auto reads = reader();
    const PageBuffer memory(40 * (kPieceBytes * 4));
    std::mt19937_64 random(7);
    std::vector<ReadRequest> requests;
    for (std::uint64_t tag = 0; tag < 40; ++tag) {
        const std::size_t offset = round_down(random() % 1'000'003, file->alignment());
        const std::size_t length = round_up(1 + random() % (kPieceBytes * 3), file->alignment());
        requests.push_back({file, offset, memory.span().subspan(tag * kPieceBytes * 4, length), tag});
    }
    reads->submit(requests);
    EXPECT_EQ(reads->in_flight(), requests.size());
    const auto done = collect(*reads);
    ASSERT_EQ(done.size(), requests.size());
    for (const ReadRequest& request : requests) expect_read(done.at(request.tag), request, data);
}

TEST_P(ReaderContract, EndsOfFiles) {
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, std::size_t{4095}, std::size_t{4096},
                                   kPieceBytes * 2, kPieceBytes * 2 + 513}) {
        const TemporaryFile data(size);
        const auto file = open(data);
        const auto reads = reader();
        const PageBuffer memory(8 * kPieceBytes);
        const std::uint64_t page = round_down(size, kPageBytes);
        const std::vector<ReadRequest> requests{
            {file, 0, memory.span().subspan(0, kPageBytes), 0},                    // from the start
            {file, page, memory.span().subspan(kPageBytes, kPageBytes), 1},        // around the end
            {file, page + 65536, memory.span().subspan(2 * kPageBytes, 4096), 2},  // behind it
            {file, 0, memory.span().subspan(kPieceBytes, kPieceBytes * 4), 3},     // across it, in several pieces
            {file, 0, memory.span().subspan(0, 0), 4},                             // nothing at all
        };
        reads->submit(requests);
        const auto done = collect(*reads);
        ASSERT_EQ(done.size(), requests.size()) << size;
        for (const ReadRequest& request : requests) expect_read(done.at(request.tag), request, data);
    }
}

TEST_P(ReaderContract, ManyMoreRequestsThanDepth) {
    const TemporaryFile data(256 * kPageBytes);
    const auto file = open(data);
    const auto reads = reader();
    const PageBuffer memory(1000 * kPageBytes);
    std::vector<ReadRequest> requests;
    for (std::uint64_t tag = 0; tag < 1000; ++tag)
        requests.push_back(
            {file, (tag * 37 % 256) * kPageBytes, memory.span().subspan(tag * kPageBytes, kPageBytes), tag});
    reads->submit(std::span(requests).first(500));
    std::vector<Completion> early;
    reads->poll(early);
    reads->submit(std::span(requests).last(500));
    auto done = collect(*reads);
    for (const Completion& one : early) done.emplace(one.tag, one);
    ASSERT_EQ(done.size(), requests.size());
    for (const ReadRequest& request : requests) expect_read(done.at(request.tag), request, data);
}

TEST_P(ReaderContract, PollAloneFinishesEverything) {
    const TemporaryFile data(64 * kPageBytes);
    const auto file = open(data);
    const auto reads = reader();
    const PageBuffer memory(64 * kPageBytes);
    std::vector<ReadRequest> requests;
    for (std::uint64_t tag = 0; tag < 64; ++tag)
        requests.push_back({file, tag * kPageBytes, memory.span().subspan(tag * kPageBytes, kPageBytes), tag});
    reads->submit(requests);
    std::vector<Completion> done;
    while (reads->in_flight() > 0) {
        reads->poll(done);
        std::this_thread::yield();
    }
    EXPECT_EQ(done.size(), 64u);
    EXPECT_TRUE(std::equal(data.contents().begin(), data.contents().end(), memory.data()));
}

TEST_P(ReaderContract, UrgentRequestsOvertakeQueuedOnes) {
    const TemporaryFile data(4 * kPieceBytes);
    const auto file = open(data);
    const auto reads = reader();
    const std::size_t depth = static_cast<std::size_t>(reads->info().depth);
    const std::size_t many = 4 * depth + 8;
    const PageBuffer memory((many + 1) * kPieceBytes);
    std::vector<ReadRequest> requests;
    for (std::size_t i = 0; i < many; ++i)
        requests.push_back({file, 0, memory.span().subspan(i * kPieceBytes, kPieceBytes), i});
    requests.push_back({file, 0, memory.span().subspan(many * kPieceBytes, kPieceBytes), many, true});
    reads->submit(requests);
    std::vector<Completion> done;
    while (reads->in_flight() > 0) reads->wait(done);
    const auto urgent = std::find_if(done.begin(), done.end(), [&](const Completion& one) { return one.tag == many; });
    ASSERT_NE(urgent, done.end());
    // It is the first to be handed over. With more than one read under way others may still end before it, so the
    // order is only certain at depth 1; request_queue_test.cpp checks the order of handing over.
    if (depth == 1) {
        EXPECT_EQ(urgent, done.begin());
    }
    EXPECT_EQ(done.size(), many + 1);
}

TEST_P(ReaderContract, CancelDropsQueuedRequestsOnly) {
    const TemporaryFile data(kPageBytes);
    const auto file = open(data);
    const auto reads = reader();
    const std::size_t many = 400;
    const PageBuffer memory(many * kPageBytes);
    std::vector<ReadRequest> requests;
    for (std::size_t i = 0; i < many; ++i)
        requests.push_back({file, 0, memory.span().subspan(i * kPageBytes, kPageBytes), i % 2});
    reads->submit(requests);
    const std::size_t cancelled = reads->cancel(1);
    EXPECT_LE(cancelled, many / 2);
    EXPECT_EQ(reads->cancel(99), 0u);
    std::vector<Completion> done;
    while (reads->in_flight() > 0) reads->wait(done);
    EXPECT_EQ(done.size(), many - cancelled);
    EXPECT_EQ(static_cast<std::size_t>(
                  std::count_if(done.begin(), done.end(), [](const Completion& one) { return one.tag == 0; })),
              many / 2);
    for (const Completion& one : done) EXPECT_EQ(one.bytes, kPageBytes);
}

TEST_P(ReaderContract, DestructionWithReadsInFlight) {
    constexpr std::size_t kBytes = 8 << 20;
    const TemporaryFile data(kBytes);
    const std::vector<std::byte> untouched(kBytes, std::byte{0x5a});
    for (int round = 0; round < 4; ++round) {
        {
            const PageBuffer memory(kBytes);
            {
                const auto reads = reader();
                const auto file = open(data);
                std::vector<ReadRequest> requests;
                for (std::uint64_t tag = 0; tag < 8; ++tag)
                    requests.push_back({file, 0, memory.span().subspan(tag << 20, 1 << 20), tag});
                reads->submit(requests);
            }
            // The reader is gone: nobody may write here any more.
            std::memset(memory.data(), 0x5a, memory.size());
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            EXPECT_EQ(std::memcmp(memory.data(), untouched.data(), memory.size()), 0);
        }
    }
}

TEST_P(ReaderContract, MisalignedRequestsAreRefusedBeforeAnyIsTaken) {
    const TemporaryFile data(8 * kPageBytes);
    const auto file = open(data);
    const auto reads = reader();
    const PageBuffer memory(2 * kPageBytes);
    const auto at = [&](std::size_t offset, std::size_t begin, std::size_t length) {
        return ReadRequest{file, offset, memory.span().subspan(begin, length), 1};
    };
    if (!file->direct()) {
        const ReadRequest odd = at(3, 5, 77);
        reads->submit(std::span(&odd, 1));
        expect_read(collect(*reads).at(1), odd, data);
        return;
    }
    for (const ReadRequest& wrong : {at(1, 0, kPageBytes), at(0, 1, kPageBytes), at(0, 0, kPageBytes + 1)}) {
        const std::vector<ReadRequest> requests{at(0, 0, kPageBytes), wrong};
        try {
            reads->submit(requests);
            ADD_FAILURE() << "no error";
        } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::usage);
            EXPECT_NE(std::string(error.what()).find(data.path()), std::string::npos) << error.what();
        }
        EXPECT_EQ(reads->in_flight(), 0u);
    }
}

TEST_P(ReaderContract, ARequestWithoutAFileIsRefused) {
    const auto reads = reader();
    const ReadRequest nothing{};
    EXPECT_THROW(reads->submit(std::span(&nothing, 1)), Error);
    EXPECT_EQ(reads->in_flight(), 0u);
}

TEST_P(ReaderContract, AFileCutWhileInUseGivesShortReads) {
    TemporaryFile data(4 * kPieceBytes);
    const auto file = open(data);
    data.fill(kPieceBytes + 1000, 1);
    const auto reads = reader();
    const PageBuffer memory(4 * kPieceBytes);
    const ReadRequest whole{file, 0, memory.span(), 5};
    reads->submit(std::span(&whole, 1));
    const auto done = collect(*reads);
    expect_read(done.at(5), whole, data);
    EXPECT_THROW(file->check_unchanged(), Error);
}

TEST_P(ReaderContract, AnErrorOfTheDeviceComesBackAsItsErrno) {
    const TemporaryFile data(kPageBytes);
    const auto file = open(data);
    const auto reads = reader();
    // The kernel cannot write to a page that is not there.
    void* const unmapped = reinterpret_cast<void*>(kPageBytes);
    const ReadRequest bad{file, 0, {static_cast<std::byte*>(unmapped), kPageBytes}, 3};
    reads->submit(std::span(&bad, 1));
    const auto done = collect(*reads);
    EXPECT_EQ(done.at(3).error, EFAULT);
    EXPECT_EQ(done.at(3).bytes, 0u);
}

TEST_P(ReaderContract, AnyThreadSubmitsAndMayEnd) {
    const TemporaryFile data(64 * kPieceBytes);
    const auto file = open(data);
    const auto reads = reader();
    constexpr std::uint64_t kThreads = 4, kEach = 32;
    const PageBuffer memory(kThreads * kEach * kPieceBytes);
    std::vector<ReadRequest> requests;
    for (std::uint64_t tag = 0; tag < kThreads * kEach; ++tag)
        requests.push_back({file, tag % 64 * kPieceBytes, memory.span().subspan(tag * kPieceBytes, kPieceBytes), tag});
    std::vector<std::thread> threads;
    for (std::uint64_t thread = 0; thread < kThreads; ++thread)
        threads.emplace_back([&, thread] {
            for (std::uint64_t i = 0; i < kEach; ++i) reads->submit(std::span(requests).subspan(thread * kEach + i, 1));
        });
    std::vector<Completion> done;
    while (done.size() < requests.size()) {
        if (reads->in_flight() > 0) reads->wait(done);
        std::this_thread::yield();
    }
    for (std::thread& thread : threads) thread.join();
    for (const Completion& one : done) expect_read(one, requests[one.tag], data);
}

TEST_P(ReaderContract, AWaitingThreadIsWokenByALaterRequest) {
    const TemporaryFile data(kPieceBytes);
    const auto file = open(data);
    const auto reads = reader();
    const PageBuffer memory(2 * kPieceBytes);
    const ReadRequest first{file, 0, memory.span().first(kPieceBytes), 1};
    const ReadRequest second{file, 0, memory.span().last(kPieceBytes), 2};
    reads->submit(std::span(&first, 1));
    std::atomic<std::size_t> seen{0};
    std::thread waiter([&] {
        std::vector<Completion> done;
        while (done.size() < 2)
            if (reads->in_flight() > 0) reads->wait(done);
        seen = done.size();
    });
    reads->submit(std::span(&second, 1));
    waiter.join();
    EXPECT_EQ(seen, 2u);
}

TEST_P(ReaderContract, InfoNamesEngineAndDepth) {
    const ReaderInfo info = reader()->info();
    EXPECT_EQ(info.engine, std::get<0>(GetParam()));
    EXPECT_EQ(info.depth, std::get<2>(GetParam()));
    EXPECT_EQ(info.registered_bytes, 0u);
}

INSTANTIATE_TEST_SUITE_P(Engines, ReaderContract,
                         testing::Combine(testing::Values("io_uring", "threads"),
                                          testing::Values(File::Cache::direct, File::Cache::buffered),
                                          testing::Values(1, 2, 32)),
                         [](const testing::TestParamInfo<Setting>& setting) {
                             const bool direct = std::get<1>(setting.param) == File::Cache::direct;
                             return text(std::get<0>(setting.param), direct ? "_direct_" : "_buffered_",
                                         std::get<2>(setting.param));
                         });

}  // namespace
}  // namespace moestro::io
