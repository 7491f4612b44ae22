#include "io/disk_probe.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "base/types.h"
#include "io/faulty_reader.h"
#include "io/temporary_file.h"

namespace moestro::io {
namespace {

constexpr Nanos kMinute = 60'000'000'000;

// Every look at it takes a millisecond: elapsed time without waiting for it.
class TickingClock final : public Clock {
  public:
    Nanos now() const override { return now_ += 1'000'000; }

  private:
    mutable Nanos now_ = 0;
};

TEST(DiskProbe, ReadsEveryWholeBlockOnceAndReportsTheRate) {
    const TemporaryFile data(10 * kPageBytes + 17);
    const auto file = File::open(data.path(), File::Cache::direct);
    const auto reader = make_reader({});
    const DiskRate rate = measure_read_rate(*reader, file, 2 * kPageBytes, 2, kMinute);
    EXPECT_EQ(rate.bytes, 10 * kPageBytes);
    EXPECT_EQ(rate.direct, file->direct());
    EXPECT_GT(rate.elapsed, 0);
    EXPECT_DOUBLE_EQ(rate.bytes_per_second, static_cast<double>(rate.bytes) * 1e9 / static_cast<double>(rate.elapsed));
    EXPECT_EQ(reader->in_flight(), 0u);
}

TEST(DiskProbe, StopsWhenTimeIsOver) {
    const TemporaryFile data(100 * kPageBytes);
    const auto file = File::open(data.path(), File::Cache::buffered);
    const auto reader = make_reader({});
    const TickingClock clock;
    const DiskRate rate = measure_read_rate(*reader, file, kPageBytes, 2, 10'000'000, 0, clock);
    // Ten looks at the clock: two blocks to begin with, at most one more for each look.
    EXPECT_GE(rate.bytes, 2 * kPageBytes);
    EXPECT_LE(rate.bytes, 12 * kPageBytes);
    EXPECT_FALSE(rate.direct);
    EXPECT_EQ(reader->in_flight(), 0u);
}

TEST(DiskProbe, MoreDepthThanBlocks) {
    const TemporaryFile data(3 * kPageBytes);
    const auto reader = make_reader({});
    const auto file = File::open(data.path(), File::Cache::buffered);
    EXPECT_EQ(measure_read_rate(*reader, file, kPageBytes, 32, kMinute).bytes, 3 * kPageBytes);
}

TEST(DiskProbe, BeginsWhereItIsTold) {
    const TemporaryFile data(10 * kPageBytes);
    const auto reader = make_reader({});
    const auto file = File::open(data.path(), File::Cache::direct);
    EXPECT_EQ(measure_read_rate(*reader, file, kPageBytes, 4, kMinute, 7 * kPageBytes).bytes, 3 * kPageBytes);
    EXPECT_THROW(measure_read_rate(*reader, file, kPageBytes, 4, kMinute, 10 * kPageBytes), Error);
    EXPECT_THROW(measure_read_rate(*reader, file, kPageBytes, 4, kMinute, 100), Error);
}

TEST(DiskProbe, WhatCannotBeMeasured) {
    const TemporaryFile data(kPageBytes);
    const auto file = File::open(data.path(), File::Cache::buffered);
    const auto reader = make_reader({});
    EXPECT_THROW(measure_read_rate(*reader, file, 2 * kPageBytes, 1, kMinute), Error);
    EXPECT_THROW(measure_read_rate(*reader, file, 1000, 1, kMinute), Error);
    EXPECT_THROW(measure_read_rate(*reader, file, 0, 1, kMinute), Error);
    EXPECT_THROW(measure_read_rate(*reader, file, kPageBytes, 0, kMinute), Error);
}

TEST(DiskProbe, AFailedReadIsNamedAndNothingStaysInFlight) {
    const TemporaryFile data(64 * kPageBytes);
    const auto file = File::open(data.path(), File::Cache::direct);
    FaultyReader reader(make_reader({}), FaultPlan::parse("eio@5"));
    try {
        measure_read_rate(reader, file, kPageBytes, 4, kMinute);
        ADD_FAILURE() << "no error";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::io);
        EXPECT_NE(std::string(error.what()).find(data.path()), std::string::npos) << error.what();
    }
    EXPECT_EQ(reader.in_flight(), 0u);
}

}  // namespace
}  // namespace moestro::io
