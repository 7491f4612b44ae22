#include "io/faulty_reader.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <map>
#include <thread>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"
#include "io/temporary_file.h"

namespace moestro::io {
namespace {

constexpr std::size_t kPages = 16;
constexpr Nanos kSoon = 50'000'000;

class Faults : public testing::TestWithParam<std::string> {
  protected:
    FaultyReader reader(const std::string& plan, Nanos patience = 30'000'000'000, int depth = 2) const {
        return {make_reader({.engine = GetParam(), .depth = depth}), FaultPlan::parse(plan), patience};
    }
    ReadRequest page(std::uint64_t tag) const {
        return {file, tag * kPageBytes, memory.span().subspan(tag * kPageBytes, kPageBytes), tag};
    }
    void submit(Reader& reader, std::uint64_t first, std::uint64_t count) const {
        std::vector<ReadRequest> reads;
        for (std::uint64_t tag = first; tag < first + count; ++tag) reads.push_back(page(tag));
        reader.submit(reads);
    }
    static std::map<std::uint64_t, Completion> collect(Reader& reader) {
        std::vector<Completion> done;
        while (reader.in_flight() > 0) reader.wait(done);
        std::map<std::uint64_t, Completion> by_tag;
        for (const Completion& one : done) by_tag.emplace(one.tag, one);
        EXPECT_EQ(by_tag.size(), done.size());
        return by_tag;
    }
    bool intact(std::uint64_t tag) const {
        return std::memcmp(page(tag).destination.data(), data.contents().data() + tag * kPageBytes, kPageBytes) == 0;
    }

    const TemporaryFile data{kPages * kPageBytes};
    const std::shared_ptr<const File> file = File::open(data.path(), File::Cache::direct);
    const PageBuffer memory{kPages * kPageBytes};
};

TEST_P(Faults, WithoutAPlanNothingHappens) {
    FaultyReader reads = reader("");
    submit(reads, 0, kPages);
    EXPECT_EQ(reads.in_flight(), kPages);
    const auto done = collect(reads);
    ASSERT_EQ(done.size(), kPages);
    for (const auto& [tag, one] : done) {
        EXPECT_EQ(one.error, 0);
        EXPECT_EQ(one.bytes, kPageBytes);
        EXPECT_TRUE(intact(tag));
    }
}

TEST_P(Faults, TheNthReadFailsAndOnlyThat) {
    FaultyReader reads = reader("eio@3,etimedout@5");
    submit(reads, 0, 2);
    submit(reads, 2, 4);
    const auto done = collect(reads);
    ASSERT_EQ(done.size(), 6u);
    for (const auto& [tag, one] : done) {
        const int expected = tag == 2 ? EIO : tag == 4 ? ETIMEDOUT : 0;
        EXPECT_EQ(one.error, expected) << tag;
        EXPECT_EQ(one.bytes, expected == 0 ? kPageBytes : 0) << tag;
        EXPECT_EQ(intact(tag), expected == 0) << tag;
    }
    submit(reads, 2, 1);
    EXPECT_EQ(collect(reads).at(2).error, 0);
    EXPECT_TRUE(intact(2));
}

TEST_P(Faults, AShortReadClaimsHalfAndTheRestIsRubbish) {
    FaultyReader reads = reader("short@2");
    submit(reads, 0, 3);
    const auto done = collect(reads);
    EXPECT_EQ(done.at(0).bytes, kPageBytes);
    EXPECT_EQ(done.at(1).bytes, kPageBytes / 2);
    EXPECT_EQ(done.at(1).error, 0);
    const std::span<std::byte> got = page(1).destination;
    EXPECT_EQ(std::memcmp(got.data(), data.contents().data() + kPageBytes, kPageBytes / 2), 0);
    EXPECT_EQ(got[kPageBytes / 2], std::byte{0xff});
    EXPECT_EQ(got[kPageBytes - 1], std::byte{0xff});
    EXPECT_EQ(done.at(2).bytes, kPageBytes);
}

TEST_P(Faults, AFlipChangesOneBit) {
    FaultyReader reads = reader("flip@1");
    submit(reads, 0, 2);
    const auto done = collect(reads);
    EXPECT_EQ(done.at(0).bytes, kPageBytes);
    EXPECT_EQ(done.at(0).error, 0);
    int changed = 0;
    for (std::size_t i = 0; i < kPageBytes; ++i)
        changed += __builtin_popcount(std::to_integer<unsigned>(memory.span()[i] ^ data.contents()[i]));
    EXPECT_EQ(changed, 1);
    EXPECT_TRUE(intact(1));
}

TEST_P(Faults, TheGateHoldsUntilReleased) {
    FaultyReader reads = reader("gate@3");
    submit(reads, 0, 6);
    std::vector<Completion> done;
    while (done.size() < 2 || reads.held() < 4) reads.poll(done);
    EXPECT_EQ(done.size(), 2u);  // the first two are in front of the gate
    EXPECT_EQ(reads.in_flight(), 4u);
    reads.poll(done);
    EXPECT_EQ(done.size(), 2u);

    reads.release(1);
    reads.wait(done);
    EXPECT_EQ(done.size(), 3u);
    EXPECT_EQ(reads.held(), 3u);

    reads.open_gate();
    reads.poll(done);
    EXPECT_EQ(done.size(), 6u);
    EXPECT_EQ(reads.in_flight(), 0u);
    submit(reads, 6, 1);
    EXPECT_EQ(collect(reads).size(), 1u);
}

TEST_P(Faults, AReleaseFromAnotherThreadWakesTheWaiter) {
    FaultyReader reads = reader("gate");
    submit(reads, 0, 2);
    std::thread opener([&] {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        reads.release(1);
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        reads.open_gate();
    });
    EXPECT_EQ(collect(reads).size(), 2u);
    opener.join();
}

TEST_P(Faults, AForgottenGateIsAnErrorNotAHang) {
    FaultyReader reads = reader("gate", kSoon);
    submit(reads, 0, 2);
    std::vector<Completion> done;
    EXPECT_THROW(reads.wait(done), Error);
    EXPECT_TRUE(done.empty());
    reads.open_gate();
    EXPECT_EQ(collect(reads).size(), 2u);
}

TEST_P(Faults, DestructionBehindAShutGate) {
    FaultyReader reads = reader("gate");
    submit(reads, 0, kPages);
    std::vector<Completion> done;
    reads.poll(done);
    EXPECT_TRUE(done.empty());
}

TEST_P(Faults, CancelMatchesTheCallersTags) {
    FaultyReader reads = reader("gate", kSoon, 1);
    std::vector<ReadRequest> requests;
    for (std::size_t i = 0; i < 200; ++i) {
        requests.push_back(page(i % kPages));
        requests.back().tag = i % 2;
    }
    reads.submit(requests);
    const std::size_t cancelled = reads.cancel(1);
    EXPECT_EQ(reads.cancel(77), 0u);
    reads.open_gate();
    std::vector<Completion> done;
    while (reads.in_flight() > 0) reads.wait(done);
    EXPECT_EQ(done.size(), 200 - cancelled);
}

TEST_P(Faults, ARefusedSubmitLeavesNothingBehind) {
    FaultyReader reads = reader("eio@1");
    const ReadRequest nothing{};
    EXPECT_THROW(reads.submit(std::span(&nothing, 1)), Error);
    EXPECT_EQ(reads.in_flight(), 0u);
    submit(reads, 0, 1);
    EXPECT_EQ(collect(reads).at(0).error, EIO);  // the refused one was not counted
}

TEST_P(Faults, InfoSaysSo) {
    const FaultyReader reads = reader("eio@1,gate@5");
    EXPECT_EQ(reads.info().engine, GetParam());
    EXPECT_NE(reads.info().refused.back().find("eio@1,gate@5"), std::string::npos);
}

std::vector<std::string> engines_here() {
    try {
        make_reader({.engine = "io_uring"});
        return {"io_uring", "threads"};
    } catch (const Error&) {
        return {"threads"};
    }
}
INSTANTIATE_TEST_SUITE_P(Engines, Faults, testing::ValuesIn(engines_here()));

TEST(FaultPlan, Words) {
    const FaultPlan plan = FaultPlan::parse("eio@5,short@3,flip@7,enxio@12,gate@9");
    ASSERT_EQ(plan.faults.size(), 4u);
    EXPECT_EQ(plan.faults[0].read, 5u);
    EXPECT_EQ(plan.faults[0].error, EIO);
    EXPECT_EQ(plan.faults[1].kind, FaultPlan::Fault::Kind::shorten);
    EXPECT_EQ(plan.faults[2].kind, FaultPlan::Fault::Kind::flip);
    EXPECT_EQ(plan.faults[3].error, ENXIO);
    EXPECT_EQ(plan.gate_from, 9u);
    EXPECT_EQ(FaultPlan::parse("gate").gate_from, 1u);
    EXPECT_FALSE(FaultPlan::parse("").gate_from);
}

TEST(FaultPlan, AWrongWordIsNamed) {
    for (const std::string wrong : {"eio", "eio@", "eio@0", "eio@-1", "eio@3x", "boom@3", "gate@0", "@4", "eio@1,,gate",
                                    "eio@1,", ",", "eio@99999999999999999999", " eio@1"}) {
        try {
            FaultPlan::parse(wrong);
            ADD_FAILURE() << "no error for " << wrong;
        } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::usage);
            EXPECT_NE(std::string(error.what()).find("short@N"), std::string::npos) << error.what();
        }
    }
}

}  // namespace
}  // namespace moestro::io
