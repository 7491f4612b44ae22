// What the emulated device does beyond the contract: it sees what hardware does not, goes wrong on purpose, and runs on
// a virtual clock.
#include "device/emulated.h"

#include <gtest/gtest.h>

#include <climits>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/types.h"
#include "device/device_slots.h"
#include "kernels/matrices.h"
#include "memory/slot_pool.h"

namespace moestro::device {
namespace {

constexpr std::size_t kPage = kPageBytes;
constexpr std::byte kSpoiled{0xFF};

struct World {
    explicit World(EmulatedOptions options = {})
        : device(make_emulated(
              [&] {
                  if (options.memory == 0) options.memory = 64 * kPage;
                  return options;
              }(),
              lanes, std::make_shared<kernels::Compute>(1, kernels::choose_isa("")))) {}

    Buffer host(std::size_t bytes, int value) const {
        Buffer made = device->allocate_host(bytes);
        std::memset(made.data(), value, bytes);
        return made;
    }

    std::shared_ptr<VirtualLanes> lanes = std::make_shared<VirtualLanes>(policy::kLanes);
    std::shared_ptr<Device> device;
};

bool all_are(const Buffer& buffer, std::byte value) {
    return std::all_of(buffer.data(), buffer.data() + buffer.size(), [&](std::byte one) { return one == value; });
}

// Whether the call throws an Error(internal) that says so.
::testing::AssertionResult misused(const char* words, const auto& call) {
    try {
        call();
    } catch (const Error& error) {
        if (error.kind() == ErrorKind::internal && std::string(error.what()).find(words) != std::string::npos)
            return ::testing::AssertionSuccess();
        return ::testing::AssertionFailure() << error.what();
    }
    return ::testing::AssertionFailure() << "nothing was thrown";
}

// ---- time ----------------------------------------------------------------------------------------------------------

TEST(EmulatedDevice, ACopyArrivesAtItsEndAndNotBefore) {
    const World w;
    const Buffer from = w.host(kPage, 7), to = w.device->allocate(kPage);
    const auto stream = w.device->make_stream();
    EXPECT_TRUE(all_are(to, kSpoiled)) << "memory that was not written";
    stream->copy(to.data(), from.data(), kPage, 100).wait();
    EXPECT_EQ(w.lanes->now(), 100);
    const Buffer other = w.host(kPage, 9);
    const Event over = stream->copy(to.data(), other.data(), kPage, 50);
    EXPECT_TRUE(all_are(to, kSpoiled)) << "what was there is gone as soon as a copy is under way";
    w.lanes->advance(49);
    EXPECT_FALSE(over.over());
    EXPECT_TRUE(all_are(to, kSpoiled));
    w.lanes->advance(1);
    EXPECT_TRUE(over.over());
    EXPECT_TRUE(all_are(to, std::byte{9}));
    EXPECT_EQ(w.lanes->now(), 150);
}

TEST(EmulatedDevice, HostMemoryIsSpoiledOnTheWayBackToo) {
    const World w;
    const Buffer from = w.host(kPage, 7), there = w.device->allocate(kPage), back = w.host(kPage, 1);
    const auto stream = w.device->make_stream();
    stream->copy(there.data(), from.data(), kPage, 10).wait();
    const Event over = stream->copy(back.data(), there.data(), kPage, 10);
    EXPECT_TRUE(all_are(back, kSpoiled));
    over.wait();
    EXPECT_TRUE(all_are(back, std::byte{7}));
}

// What waits behind others spoils its destination when they have no use for it any more.
TEST(EmulatedDevice, WhatIsStillReadIsNotSpoiled) {
    const World w;
    const Buffer first = w.host(kPage, 1), second = w.host(kPage, 2);
    const Buffer there = w.device->allocate(kPage), back = w.device->allocate_host(kPage);
    const auto stream = w.device->make_stream();
    stream->copy(there.data(), first.data(), kPage, 10);
    stream->copy(back.data(), there.data(), kPage, 10);
    stream->copy(there.data(), second.data(), kPage, 10);
    w.lanes->advance(10);
    EXPECT_TRUE(all_are(there, std::byte{1}));
    w.lanes->advance(10);
    EXPECT_TRUE(all_are(back, std::byte{1}));
    EXPECT_TRUE(all_are(there, kSpoiled)) << "now the third is under way";
    w.lanes->advance(10);
    EXPECT_TRUE(all_are(there, std::byte{2}));
}

TEST(EmulatedDevice, TheLinkServesOneCopyAfterTheOtherWhateverTheStream) {
    const World w;
    const Buffer from = w.host(2 * kPage, 1), there = w.device->allocate(2 * kPage);
    const auto one = w.device->make_stream(), two = w.device->make_stream();
    one->copy(there.data(), from.data(), kPage, 100);
    two->copy(there.data() + kPage, from.data(), kPage, 100).wait();
    EXPECT_EQ(w.lanes->now(), 200);
}

TEST(EmulatedDevice, AFailedCopyLeavesItsDestinationSpoiled) {
    const World w({.failed_copy = 1});
    const Buffer from = w.host(kPage, 1), there = w.host(kPage, 2), to = w.device->allocate(kPage);
    const auto stream = w.device->make_stream();
    EXPECT_THROW(stream->copy(to.data(), from.data(), kPage, 10).wait(), Error);
    EXPECT_TRUE(all_are(to, kSpoiled));
    EXPECT_EQ(w.lanes->now(), 10) << "it took its time";
}

// ---- strictness ----------------------------------------------------------------------------------------------------

struct TwoStreams : World {
    const Buffer from = host(kPage, 1), other = host(kPage, 2), there = device->allocate(kPage);
    const std::unique_ptr<Stream> one = device->make_stream(), two = device->make_stream();
};

TEST(EmulatedDevice, WhatIsWrittenMayNotBeReadWithoutAnEvent) {
    const TwoStreams w;
    const Buffer back = w.host(kPage, 3);
    const Event written = w.one->copy(w.there.data(), w.from.data(), kPage, 10);
    EXPECT_TRUE(misused("read while it is written", [&] { w.two->copy(back.data(), w.there.data(), kPage, 10); }));
    w.two->wait(written);
    w.two->copy(back.data(), w.there.data(), kPage, 10).wait();
    EXPECT_TRUE(all_are(back, std::byte{1})) << "the refusal left nothing behind";
}

TEST(EmulatedDevice, WhatIsWrittenMayNotBeOverwrittenWithoutAnEvent) {
    const TwoStreams w;
    const Event written = w.one->copy(w.there.data(), w.from.data(), kPage, 10);
    EXPECT_TRUE(misused("would be overwritten", [&] { w.two->copy(w.there.data(), w.other.data(), kPage, 10); }));
    w.two->wait(written);
    w.two->copy(w.there.data(), w.other.data(), kPage, 10).wait();
    EXPECT_TRUE(all_are(w.there, std::byte{2}));
}

TEST(EmulatedDevice, WhatIsReadMayNotBeOverwrittenWithoutAnEvent) {
    const TwoStreams w;
    const Buffer spare = w.device->allocate(kPage);
    w.one->copy(w.there.data(), w.from.data(), kPage, 10).wait();
    const Event read = w.one->copy(spare.data(), w.there.data(), kPage, 10);
    EXPECT_TRUE(misused("would be overwritten", [&] { w.two->copy(w.there.data(), w.other.data(), kPage, 10); }));
    EXPECT_TRUE(all_are(w.there, std::byte{1})) << "a refused copy spoils nothing";
    read.wait();
    EXPECT_TRUE(all_are(spare, std::byte{1}));
}

TEST(EmulatedDevice, HostMemoryIsWatchedToo) {
    const TwoStreams w;
    w.one->copy(w.there.data(), w.from.data(), kPage, 10);
    const Buffer second = w.device->allocate(kPage);
    EXPECT_TRUE(misused("would be overwritten", [&] { w.two->copy(w.from.data(), second.data(), kPage, 10); }));
}

TEST(EmulatedDevice, TwoMayReadTheSame) {
    const TwoStreams w;
    const Buffer second = w.device->allocate(kPage);
    const Event first = w.one->copy(w.there.data(), w.from.data(), kPage, 10);
    const Event other = w.two->copy(second.data(), w.from.data(), kPage, 10);
    all({first, other}).wait();
    EXPECT_TRUE(all_are(second, std::byte{1}));
}

TEST(EmulatedDevice, PartsOfABufferAreWatchedByThemselves) {
    const World w;
    const Buffer from = w.host(2 * kPage, 1), there = w.device->allocate(2 * kPage);
    const auto one = w.device->make_stream(), two = w.device->make_stream();
    one->copy(there.data(), from.data(), kPage, 10);
    two->copy(there.data() + kPage, from.data() + kPage, kPage, 10);
    EXPECT_TRUE(misused("would be overwritten", [&] { two->copy(there.data() + kPage - 1, from.data(), 1, 10); }));
}

TEST(EmulatedDevice, AnEventOfWorkBeforeIsNotEnough) {
    const TwoStreams w;
    const Buffer back = w.host(kPage, 3);
    const Event first = w.one->copy(w.there.data(), w.from.data(), kPage, 10);
    w.one->copy(w.there.data(), w.other.data(), kPage, 10);
    w.two->wait(first);
    EXPECT_TRUE(misused("read while it is written", [&] { w.two->copy(back.data(), w.there.data(), kPage, 10); }));
}

TEST(EmulatedDevice, WhatIsOverNeedsNoEvent) {
    const TwoStreams w;
    w.one->copy(w.there.data(), w.from.data(), kPage, 10);
    w.lanes->advance(10);
    w.two->copy(w.there.data(), w.other.data(), kPage, 10).wait();
    EXPECT_TRUE(all_are(w.there, std::byte{2}));
}

TEST(EmulatedDevice, ABufferGivenBackInUseIsReportedByTheNextCall) {
    World w;
    const Buffer from = w.host(kPage, 1);
    const auto stream = w.device->make_stream();
    const auto in_use = [&] {
        Buffer gone = w.device->allocate(kPage);
        const Event event = stream->copy(gone.data(), from.data(), kPage, 10);
        gone = {};
        return event;
    };
    Event event = in_use();
    EXPECT_TRUE(misused("given back", [&] { w.device->allocate(kPage); }));
    event.wait();
    event = in_use();
    EXPECT_TRUE(misused("given back", [&] { stream->wait({}); }));
    event = in_use();
    EXPECT_TRUE(misused("given back", [&] { w.device->wait_any(); }));
    EXPECT_TRUE(w.device->wait_any()) << "said once";
    const Buffer fine = w.device->allocate(kPage);
    stream->copy(fine.data(), from.data(), kPage, 10).wait();
    EXPECT_TRUE(all_are(fine, std::byte{1}));
}

TEST(EmulatedDevice, TheSourceOfACopyMayNotBeGivenBackEither) {
    const World w;
    Buffer from = w.host(kPage, 1);
    const Buffer there = w.device->allocate(kPage);
    const auto stream = w.device->make_stream();
    stream->copy(there.data(), from.data(), kPage, 10);
    from = {};
    EXPECT_TRUE(misused("given back", [&] { stream->copy(there.data(), there.data(), 0, 10); }));
}

TEST(EmulatedDevice, OneEndOfACopyIsDeviceMemory) {
    const World w;
    const Buffer from = w.host(kPage, 1), to = w.host(kPage, 2);
    const auto stream = w.device->make_stream();
    EXPECT_TRUE(
        misused("not in memory that the device reaches", [&] { stream->copy(to.data(), from.data(), kPage, 10); }));
    EXPECT_TRUE(all_are(to, std::byte{2}));
}

// device.h: a range outside its buffer is thrown by the call. Less than a page too far: nothing else is hurt.
TEST(EmulatedDevice, CopiesOutsideTheirBuffersAreRefused) {
    const World w;
    const Buffer here = w.host(kPage, 1), small_here = w.host(100, 1);
    const Buffer there = w.device->allocate(kPage), small = w.device->allocate(100);
    const auto stream = w.device->make_stream();
    EXPECT_TRUE(misused("", [&] { stream->copy(there.data(), here.data(), kPage + 1, 10); })) << "whole pages";
    EXPECT_TRUE(misused("", [&] { stream->copy(small.data(), here.data(), 101, 10); })) << "to the device";
    EXPECT_TRUE(misused("", [&] { stream->copy(here.data(), small.data(), 101, 10); })) << "from the device";
    EXPECT_TRUE(misused("", [&] { stream->copy(small.data(), there.data(), 101, 10); })) << "on the device";
    EXPECT_TRUE(misused("", [&] { stream->copy(there.data(), small.data(), 101, 10); })) << "on the device";
    EXPECT_TRUE(misused("", [&] { stream->copy(there.data(), small_here.data(), 101, 10); })) << "from its host memory";
    stream->copy(small.data(), small_here.data(), 100, 10).wait();
}

TEST(EmulatedDevice, MemoryThatWasGivenBackIsNoMoreItsOwn) {
    const World w;
    const Buffer from = w.host(kPage, 1);
    Buffer gone = w.device->allocate(kPage);
    std::byte* const data = gone.data();
    gone = {};
    const auto stream = w.device->make_stream();
    EXPECT_TRUE(misused("not in memory that the device reaches", [&] { stream->copy(data, from.data(), kPage, 10); }));
}

// ---- experts -------------------------------------------------------------------------------------------------------

// One small expert on one row.
struct OneExpert {
    static constexpr int kHidden = 32, kWidth = 32;
    static constexpr std::size_t kRow = kHidden * sizeof(float);

    explicit OneExpert(const World& w)
        : matrix(testing::random_matrix(kWidth, kHidden, quant::Format::q8, quant::ScaleType::f16, 1)),
          here(w.device->allocate_host(matrix.matrix.spec.bytes())),
          record(w.device->allocate(matrix.matrix.spec.bytes())),
          x(w.device->allocate(kRow)),
          y(w.device->allocate(kRow)) {
        std::memcpy(here.data(), matrix.bytes.get(), here.size());
        const auto stream = w.device->make_stream();
        stream->copy(record.data(), here.data(), here.size(), 1);
        const Buffer input = w.device->allocate_host(kRow);
        std::fill_n(reinterpret_cast<float*>(input.data()), kHidden, 0.5f);
        stream->copy(x.data(), input.data(), kRow, 1).wait();
    }

    kernels::ExpertJob job(const std::byte* weights, std::byte* into) const {
        const kernels::Matrix part{weights, matrix.matrix.spec, nullptr};
        return {{part, part, part}, {&row, 1}, reinterpret_cast<float*>(into)};
    }
    Event run(Stream& stream, const std::byte* weights, const std::byte* from, std::byte* into) const {
        const kernels::ExpertJob one = job(weights, into);
        return stream.experts({{&one, 1}, reinterpret_cast<const float*>(from), 1, kHidden, true}, 20);
    }

    testing::PackedMatrix matrix;
    std::int32_t row = 0;
    Buffer here, record, x, y;
};

TEST(EmulatedDevice, OutputsAreSpoiledUntilTheyAreComputed) {
    const World w;
    const OneExpert one(w);
    const auto stream = w.device->make_stream();
    const Buffer zeros = w.host(OneExpert::kRow, 0);
    stream->copy(one.y.data(), zeros.data(), OneExpert::kRow, 1).wait();
    const Event over = one.run(*stream, one.record.data(), one.x.data(), one.y.data());
    EXPECT_TRUE(all_are(one.y, kSpoiled));
    over.wait();
    for (int i = 0; i < OneExpert::kHidden; ++i)
        EXPECT_TRUE(std::isfinite(reinterpret_cast<const float*>(one.y.data())[i]));
}

TEST(EmulatedDevice, ComputingRunsBesideTheLink) {
    const World w;
    const OneExpert one(w);
    const Nanos begin = w.lanes->now();
    const auto work = w.device->make_stream(), link = w.device->make_stream();
    const Buffer from = w.host(kPage, 1), there = w.device->allocate(kPage);
    const Event computed = one.run(*work, one.record.data(), one.x.data(), one.y.data());
    const Event copied = link->copy(there.data(), from.data(), kPage, 20);
    all({computed, copied}).wait();
    EXPECT_EQ(w.lanes->now(), begin + 20);
}

TEST(EmulatedDevice, ExpertsNeedTheirRecordsOnTheDevice) {
    const World w;
    const OneExpert one(w);
    const auto stream = w.device->make_stream();
    EXPECT_TRUE(misused("record", [&] { one.run(*stream, one.here.data(), one.x.data(), one.y.data()); }));
    EXPECT_TRUE(misused("record", [&] { one.run(*stream, one.record.data() + 64, one.x.data(), one.y.data()); }));
}

TEST(EmulatedDevice, ExpertsReachNoPageableMemory) {
    const World w;
    const OneExpert one(w);
    const auto stream = w.device->make_stream();
    std::vector<float> pageable(OneExpert::kHidden);
    auto* const data = reinterpret_cast<std::byte*>(pageable.data());
    EXPECT_TRUE(misused("input", [&] { one.run(*stream, one.record.data(), data, one.y.data()); }));
    EXPECT_TRUE(misused("output", [&] { one.run(*stream, one.record.data(), one.x.data(), data); }));
}

TEST(EmulatedDevice, ExpertsMayNotRaceWithCopies) {
    const World w;
    const OneExpert one(w);
    const auto work = w.device->make_stream(), link = w.device->make_stream();
    const Event copied = link->copy(one.record.data(), one.here.data(), one.here.size(), 10);
    EXPECT_TRUE(
        misused("read while it is written", [&] { one.run(*work, one.record.data(), one.x.data(), one.y.data()); }));
    work->wait(copied);
    const Event computed = one.run(*work, one.record.data(), one.x.data(), one.y.data());
    EXPECT_TRUE(misused("would be overwritten", [&] {
        link->copy(one.record.data(), one.here.data(), one.here.size(), 10);
    })) << "another record may not take its slot yet";
    computed.wait();
}

TEST(EmulatedDevice, WhatExpertsFailWithIsInTheirEvent) {
    const World w;
    const OneExpert one(w);
    const auto stream = w.device->make_stream();
    const Buffer bad = w.device->allocate_host(OneExpert::kRow);
    std::fill_n(reinterpret_cast<float*>(bad.data()), OneExpert::kHidden, std::numeric_limits<float>::infinity());
    const Event failed = one.run(*stream, one.record.data(), bad.data(), one.y.data());
    const Event fine = one.run(*stream, one.record.data(), one.x.data(), one.y.data());
    fine.wait();
    try {
        failed.wait();
        ADD_FAILURE() << "its input is not finite";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::numeric);
    }
}

TEST(EmulatedDevice, WithoutPinningExpertsReachNoHostMemory) {
    const World w({.no_pinning = true});
    const OneExpert one(w);
    const Buffer host = w.host(kPage, 0);
    EXPECT_FALSE(host.pinned());
    const auto stream = w.device->make_stream();
    EXPECT_TRUE(misused("input", [&] { one.run(*stream, one.record.data(), host.data(), one.y.data()); }));
    EXPECT_TRUE(misused("output", [&] { one.run(*stream, one.record.data(), one.x.data(), host.data()); }));
    one.run(*stream, one.record.data(), one.x.data(), one.y.data()).wait();
    stream->copy(host.data(), one.y.data(), OneExpert::kRow, 10).wait();
    EXPECT_EQ(std::memcmp(host.data(), one.y.data(), OneExpert::kRow), 0) << "copies go all the same";
}

TEST(EmulatedDevice, HostMemoryIsPinnedAndDeviceMemoryIsNot) {
    const World w;
    EXPECT_TRUE(w.device->allocate_host(kPage).pinned());
    EXPECT_FALSE(w.device->allocate(kPage).pinned());
}

// ---- what goes wrong, and what weighs nothing ----------------------------------------------------------------------

TEST(EmulatedDevice, AllocationsFailFromTheChosenOneOn) {
    const World w({.failed_allocation = 3});
    const Buffer first = w.device->allocate(kPage), host = w.device->allocate_host(kPage);
    Buffer second = w.device->allocate(kPage);
    for (int i = 0; i < 2; ++i) {
        try {
            w.device->allocate(kPage);
            ADD_FAILURE() << "it was told to fail";
        } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::budget);
        }
        second = {};
    }
    EXPECT_EQ(w.device->allocated(), kPage);
    EXPECT_NO_THROW(w.device->allocate_host(kPage)) << "host memory is another matter";
}

TEST(EmulatedDevice, AWeightlessOneDoesNothingButTakeTime) {
    const auto lanes = std::make_shared<VirtualLanes>(policy::kLanes);
    constexpr std::size_t kHuge = std::size_t{1} << 36;
    const auto device = make_emulated({.memory = 3 * kHuge, .weightless = true}, lanes, nullptr);
    const Buffer first = device->allocate(kHuge), second = device->allocate(2 * kHuge);
    EXPECT_NE(first.data(), second.data());
    EXPECT_THROW(device->allocate(kPage), Error) << "its memory is counted all the same";
    const auto link = device->make_stream(), work = device->make_stream();
    work->wait(link->copy(first.data(), nullptr, kHuge, 100));
    const Event computed = work->experts({}, 30);
    EXPECT_FALSE(computed.over());
    computed.wait();
    EXPECT_EQ(lanes->now(), 130);
}

TEST(EmulatedDevice, CopiesOfAWeightlessOneFailToo) {
    const auto lanes = std::make_shared<VirtualLanes>(policy::kLanes);
    const auto device = make_emulated({.memory = kPage, .failed_copy = 2, .weightless = true}, lanes, nullptr);
    const auto stream = device->make_stream();
    stream->copy(nullptr, nullptr, kPage, 5).wait();
    EXPECT_THROW(stream->copy(nullptr, nullptr, kPage, 5).wait(), Error);
    stream->copy(nullptr, nullptr, kPage, 5).wait();
}

// ---- slots ---------------------------------------------------------------------------------------------------------

TEST(DeviceSlots, TakeAndGiveBackDeviceMemory) {
    const World w;
    const auto slots = device_slots(w.device);
    slots->add_class(2 * kPage, 3);
    slots->add_class(kPage, 2);
    EXPECT_EQ(w.device->allocated(), 0u);
    std::byte* const first = slots->commit(0, 2);
    std::byte* const second = slots->commit(1, 0);
    ASSERT_TRUE(first && second);
    EXPECT_NE(first, second);
    EXPECT_EQ(w.device->allocated(), 3 * kPage);
    slots->decommit(0, 2);
    EXPECT_EQ(w.device->allocated(), kPage);
    EXPECT_EQ(slots->refusal(), "");
}

TEST(DeviceSlots, SayWhyThereIsNone) {
    const World w({.memory = 3 * kPage});
    const auto slots = device_slots(w.device);
    slots->add_class(2 * kPage, 3);
    EXPECT_TRUE(slots->commit(0, 0));
    EXPECT_FALSE(slots->commit(0, 1));
    EXPECT_NE(slots->refusal().find("4.00 KiB of 12.0 KiB are free"), std::string::npos) << slots->refusal();
    slots->decommit(0, 0);
    EXPECT_TRUE(slots->commit(0, 1));
}

TEST(DeviceSlots, TheirMemoryGoesWithThem) {
    const World w;
    {
        const auto slots = device_slots(w.device);
        slots->add_class(kPage, 3);
        slots->commit(0, 0);
        slots->commit(0, 1);
    }
    EXPECT_EQ(w.device->allocated(), 0u);
}

// That there is no memory is one thing, a bug of ours another.
TEST(DeviceSlots, AMisuseIsNoRefusal) {
    const World w;
    const auto slots = device_slots(w.device);
    slots->add_class(kPage, 3);
    std::byte* const slot = slots->commit(0, 0);
    const Buffer from = w.host(kPage, 1);
    const auto stream = w.device->make_stream();
    stream->copy(slot, from.data(), kPage, 10);
    slots->decommit(0, 0);
    EXPECT_TRUE(misused("given back", [&] { slots->commit(0, 1); }));
}

struct Pool {
    explicit Pool(const EmulatedOptions& options, std::vector<memory::SlotClass> classes = {{2 * kPage, 20}})
        : world(options), pool(ledger, std::move(classes), 20 * kPage, INT_MAX, device_slots(world.device)) {}

    World world;
    std::shared_ptr<memory::Ledger> ledger = std::make_shared<memory::Ledger>(100 * kPage);
    memory::SlotPool pool;
};

TEST(DeviceSlots, APoolHasAsManyAsThereIsMemoryFor) {
    Pool p({.memory = 7 * kPage});
    EXPECT_EQ(p.ledger->held(), 20 * kPage);
    EXPECT_EQ(p.pool.refusal(), "");
    std::vector<memory::Slot> taken;
    while (const auto slot = p.pool.take(0)) taken.push_back(*slot);
    EXPECT_EQ(taken.size(), 3u);
    EXPECT_EQ(p.pool.limit(), 6 * kPage) << "less than it was given";
    EXPECT_EQ(p.ledger->held(), 6 * kPage) << "and it holds no more than it uses";
    EXPECT_NE(p.pool.refusal().find("refused"), std::string::npos);
    p.pool.check_integrity();
    p.ledger->check_integrity();
    p.pool.give(taken.back());
    EXPECT_TRUE(p.pool.take(0)) << "and goes on with those";
    p.pool.check_integrity();
}

TEST(DeviceSlots, APoolStaysConsistentWhenMemoryIsRefusedInTheMiddle) {
    Pool p({.memory = 64 * kPage, .failed_allocation = 4}, {{2 * kPage, 20}, {kPage, 20}});
    std::vector<memory::Slot> taken;
    for (const int size_class : {0, 1, 0, 1, 0}) {
        if (const auto slot = p.pool.take(size_class)) taken.push_back(*slot);
        p.pool.check_integrity();
        p.ledger->check_integrity();
    }
    EXPECT_EQ(taken.size(), 3u);
    EXPECT_EQ(p.pool.limit(), 5 * kPage);
    EXPECT_EQ(p.ledger->held(), 5 * kPage);
    EXPECT_EQ(p.pool.bytes_in_use(), 5 * kPage);
    EXPECT_TRUE(p.pool.set_limit(20 * kPage)) << "somebody may try again";
    EXPECT_FALSE(p.pool.take(0));
    EXPECT_EQ(p.pool.limit(), 5 * kPage);
    for (const memory::Slot& slot : taken) p.pool.give(slot);
    EXPECT_TRUE(p.pool.set_limit(0));
    p.pool.check_integrity();
    EXPECT_EQ(p.world.device->allocated(), 0u);
}

TEST(DeviceSlots, AShrunkPoolGivesItsMemoryBackToTheDevice) {
    Pool p({.memory = 64 * kPage});
    std::vector<memory::Slot> taken;
    while (const auto slot = p.pool.take(0)) taken.push_back(*slot);
    EXPECT_EQ(p.world.device->allocated(), 20 * kPage);
    for (const memory::Slot& slot : taken) p.pool.give(slot);
    EXPECT_TRUE(p.pool.set_limit(6 * kPage));
    EXPECT_EQ(p.world.device->allocated(), 6 * kPage);
}

// Memory goes from one class to another through the device. Where the device gives it back but takes it no more, less
// is left.
TEST(DeviceSlots, SpareMemoryOfOneClassServesAnother) {
    Pool p({.memory = 20 * kPage}, {{2 * kPage, 20}, {5 * kPage, 20}});
    std::vector<memory::Slot> taken;
    while (const auto slot = p.pool.take(0)) taken.push_back(*slot);
    ASSERT_EQ(taken.size(), 10u);
    for (const memory::Slot& slot : taken) p.pool.give(slot);
    for (int i = 0; i < 4; ++i) EXPECT_TRUE(p.pool.take(1));
    EXPECT_EQ(p.world.device->allocated(), 20 * kPage);
    p.pool.check_integrity();
}

}  // namespace
}  // namespace moestro::device
