// The rules both engines share, with a made-up system: the test says what each read call returned.
#include "io/request_queue.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"
#include "io/temporary_file.h"

namespace moestro::io {
namespace {

constexpr std::size_t kPage = kPageBytes;
constexpr std::size_t kFileBytes = 10 * kPage + 100;

class Queue : public testing::Test {
  protected:
    ReadRequest request(std::uint64_t tag, std::size_t pages, bool urgent = false, std::size_t first_page = 0) const {
        return {file, first_page * kPage, memory.span().first(pages * kPage), tag, urgent};
    }
    static void push(RequestQueue& queue, const ReadRequest& read) { queue.push(std::span(&read, 1)); }
    static std::vector<Completion> finished(RequestQueue& queue) {
        std::vector<Completion> out;
        queue.take_finished(out);
        return out;
    }
    static Completion only(RequestQueue& queue) {
        const std::vector<Completion> all = finished(queue);
        EXPECT_EQ(all.size(), 1u);
        return all.empty() ? Completion{} : all.front();
    }

    const TemporaryFile data{kFileBytes};
    const std::shared_ptr<const File> file = File::open(data.path(), File::Cache::buffered);
    const PageBuffer memory{32 * kPage};
};

TEST_F(Queue, LargeRequestsAreCutAndJoined) {
    RequestQueue queue(8, 2 * kPage);
    push(queue, request(7, 5));
    std::vector<Transfer*> transfers;
    while (Transfer* transfer = queue.next()) transfers.push_back(transfer);
    ASSERT_EQ(transfers.size(), 3u);
    for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_EQ(transfers[i]->offset, 2 * i * kPage);
        EXPECT_EQ(transfers[i]->destination, memory.data() + 2 * i * kPage);
        EXPECT_EQ(transfers[i]->length, i < 2 ? 2 * kPage : kPage);
    }
    EXPECT_EQ(queue.with_system(), 3);
    EXPECT_FALSE(queue.finish(*transfers[2], kPage));
    EXPECT_FALSE(queue.finish(*transfers[0], 2 * kPage));
    EXPECT_FALSE(queue.has_finished());
    EXPECT_FALSE(queue.finish(*transfers[1], 2 * kPage));
    const Completion done = only(queue);
    EXPECT_EQ(done.tag, 7u);
    EXPECT_EQ(done.bytes, 5 * kPage);
    EXPECT_EQ(done.error, 0);
    EXPECT_EQ(queue.in_flight(), 0u);
}

TEST_F(Queue, NeverMoreOutThanDepth) {
    RequestQueue queue(2, kPage);
    push(queue, request(1, 3));
    Transfer* first = queue.next();
    ASSERT_NE(first, nullptr);
    ASSERT_NE(queue.next(), nullptr);
    EXPECT_EQ(queue.next(), nullptr);
    queue.finish(*first, kPage);
    EXPECT_NE(queue.next(), nullptr);
}

TEST_F(Queue, UrgentFirstOtherwiseInOrder) {
    RequestQueue queue(1, kPage);
    push(queue, request(1, 2));
    push(queue, request(2, 1));
    std::vector<std::uint64_t> order;
    for (int step = 0; Transfer* transfer = queue.next(); ++step) {
        order.push_back(transfer->request->read.tag);
        queue.finish(*transfer, kPage);
        // In the middle of request 1: its second half waits.
        if (step == 0) {
            push(queue, request(3, 1, true));
            push(queue, request(4, 1, true));
        }
    }
    EXPECT_EQ(order, (std::vector<std::uint64_t>{1, 3, 4, 1, 2}));
}

TEST_F(Queue, AShortTransferInTheMiddleIsCarriedOn) {
    RequestQueue queue(1, 8 * kPage);
    push(queue, request(1, 4));
    Transfer& transfer = *queue.next();
    EXPECT_TRUE(queue.finish(transfer, 1000));
    EXPECT_EQ(transfer.offset, 1000u);
    EXPECT_EQ(transfer.destination, memory.data() + 1000);
    EXPECT_EQ(transfer.length, 4 * kPage - 1000);
    EXPECT_TRUE(queue.finish(transfer, 1));
    EXPECT_EQ(transfer.offset, 1001u);
    EXPECT_FALSE(queue.finish(transfer, static_cast<std::int64_t>(transfer.length)));
    EXPECT_EQ(only(queue).bytes, 4 * kPage);
}

TEST_F(Queue, ADirectFileIsCarriedOnAtAnAlignedPlace) {
    const auto direct = File::open(data.path(), File::Cache::direct);
    if (!direct->direct()) GTEST_SKIP() << direct->refusal();
    const std::size_t unit = direct->alignment();
    RequestQueue queue(1, 8 * kPage);
    push(queue, {direct, kPage, memory.span().first(4 * kPage), 1});
    Transfer& transfer = *queue.next();
    EXPECT_TRUE(queue.finish(transfer, static_cast<std::int64_t>(2 * unit + 5)));
    EXPECT_EQ(transfer.offset, kPage + 2 * unit);
    EXPECT_EQ(transfer.destination, memory.data() + 2 * unit);
    EXPECT_EQ(transfer.length, 4 * kPage - 2 * unit);
    // The same bytes again and no more: the file ends there now.
    EXPECT_FALSE(queue.finish(transfer, 5));
    const Completion done = only(queue);
    EXPECT_EQ(done.bytes, 2 * unit + 5);
    EXPECT_EQ(done.error, 0);
}

TEST_F(Queue, TheEndOfTheFileEndsARequest) {
    RequestQueue queue(4, 2 * kPage);
    push(queue, request(1, 8, false, 6));  // pages 6 to 13 of a file that ends in page 10
    std::vector<Transfer*> transfers;
    while (Transfer* transfer = queue.next()) transfers.push_back(transfer);
    ASSERT_EQ(transfers.size(), 4u);
    EXPECT_FALSE(queue.finish(*transfers[3], 0));
    EXPECT_FALSE(queue.finish(*transfers[2], 100));
    EXPECT_FALSE(queue.finish(*transfers[1], 2 * kPage));
    EXPECT_FALSE(queue.finish(*transfers[0], 2 * kPage));
    const Completion done = only(queue);
    EXPECT_EQ(done.bytes, 4 * kPage + 100);
    EXPECT_EQ(done.error, 0);
}

TEST_F(Queue, TheFirstGapCountsWhateverArrivesFirst) {
    for (const bool error_first : {true, false}) {
        RequestQueue queue(4, kPage);
        push(queue, request(1, 4));
        std::vector<Transfer*> transfers;
        while (Transfer* transfer = queue.next()) transfers.push_back(transfer);
        ASSERT_EQ(transfers.size(), 4u);
        queue.finish(*transfers[0], kPage);
        queue.finish(*transfers[error_first ? 1 : 2], error_first ? -EIO : -ENXIO);
        queue.finish(*transfers[error_first ? 2 : 1], error_first ? -ENXIO : -EIO);
        queue.finish(*transfers[3], kPage);
        const Completion done = only(queue);
        EXPECT_EQ(done.error, EIO);
        EXPECT_EQ(done.bytes, kPage);
    }
}

TEST_F(Queue, InterruptionsAreRetriedAndCostNothing) {
    RequestQueue queue(1, 8 * kPage);
    push(queue, request(1, 2));
    Transfer& transfer = *queue.next();
    for (const int error : {EINTR, EAGAIN, ECANCELED}) {
        EXPECT_TRUE(queue.finish(transfer, -error));
        EXPECT_EQ(transfer.offset, 0u);
        EXPECT_EQ(transfer.length, 2 * kPage);
    }
    EXPECT_FALSE(queue.finish(transfer, 2 * kPage));
    EXPECT_EQ(only(queue).error, 0);
}

TEST_F(Queue, ADeviceThatOnlySaysTryAgainBecomesAnError) {
    RequestQueue queue(1, 8 * kPage);
    push(queue, request(1, 2));
    Transfer& transfer = *queue.next();
    int tries = 1;
    while (queue.finish(transfer, -EAGAIN)) ASSERT_LT(++tries, 100'000);
    EXPECT_EQ(only(queue).error, EAGAIN);
}

TEST_F(Queue, CancelTakesOnlyWhatWasNotBegun) {
    RequestQueue queue(1, kPage);
    push(queue, request(1, 2));
    Transfer* begun = queue.next();
    push(queue, request(1, 1));
    push(queue, request(1, 1, true));
    push(queue, request(2, 1));
    EXPECT_EQ(queue.cancel(1), 2u);
    EXPECT_EQ(queue.cancel(1), 0u);
    EXPECT_EQ(queue.in_flight(), 2u);
    queue.finish(*begun, kPage);
    queue.finish(*queue.next(), kPage);
    const Completion done = only(queue);
    EXPECT_EQ(done.tag, 1u);
    EXPECT_EQ(done.bytes, 2 * kPage);
    EXPECT_EQ(queue.next()->request->read.tag, 2u);
}

TEST_F(Queue, AfterCloseNothingGoesOut) {
    RequestQueue queue(2, kPage);
    push(queue, request(1, 1));
    push(queue, request(2, 1));
    Transfer& out = *queue.next();
    queue.close();
    EXPECT_EQ(queue.next(), nullptr);
    EXPECT_FALSE(queue.finish(out, 10));
    EXPECT_EQ(queue.with_system(), 0);
}

TEST_F(Queue, ARequestOfNothingSucceedsOrFails) {
    RequestQueue queue(1, kPage);
    push(queue, request(1, 0));
    EXPECT_FALSE(queue.finish(*queue.next(), 0));
    EXPECT_EQ(only(queue).error, 0);
    push(queue, request(2, 0));
    EXPECT_FALSE(queue.finish(*queue.next(), -EBADF));
    EXPECT_EQ(only(queue).error, EBADF);
}

}  // namespace
}  // namespace moestro::io
