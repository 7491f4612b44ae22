// What device.h promises, of every device. Nothing here reads device memory but by copies, and nothing depends on how
// long anything takes.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <numeric>
#include <random>

#include "base/bytes.h"
#include "base/error.h"
#include "device/cuda.h"
#include "device/device.h"
#include "device/emulated.h"
#include "kernels/matrices.h"

namespace moestro::device {
namespace {

using testing::FormatCase;

constexpr std::size_t kUnit = std::size_t{2} << 20;  // no device rounds this up
constexpr std::size_t kMemory = 16 * kUnit;

struct Wish {
    std::size_t memory = kMemory;
    int failed_copy = 0;  // the n-th; 0: none
};

struct Factory {
    const char* name;
    std::function<std::shared_ptr<Device>(const Wish&)> make;
    bool can_fail = false;

    friend void PrintTo(const Factory& factory, std::ostream* out) { *out << factory.name; }
};

kernels::Compute& compute() {
    static kernels::Compute made(2, kernels::choose_isa(""));
    return made;
}

std::vector<Factory> factories() {
    const auto emulated = [](const Wish& wish) {
        return make_emulated({.memory = wish.memory, .failed_copy = wish.failed_copy},
                             std::make_shared<VirtualLanes>(policy::kLanes),
                             std::make_shared<kernels::Compute>(2, kernels::choose_isa("")));
    };
    const auto cuda = [](const Wish& wish) { return make_cuda({.memory = wish.memory}); };
    return {{"emulated", emulated, true}, {"cuda", cuda}};
}

using Bytes = std::vector<std::byte>;

Bytes random_bytes(std::size_t count, unsigned seed) {
    std::mt19937 random(seed);
    Bytes made(count);
    for (std::size_t at = 0; at < count; at += sizeof(std::uint32_t)) {
        const auto word = static_cast<std::uint32_t>(random());
        std::memcpy(made.data() + at, &word, std::min(sizeof word, count - at));
    }
    return made;
}

// Operations that take a while, where time is virtual.
constexpr Nanos kTakes = 1000;

class DeviceContract : public ::testing::TestWithParam<Factory> {
  protected:
    void SetUp() override {
        if (const std::string missing = cuda_info().missing; GetParam().name == std::string("cuda") && !missing.empty())
            GTEST_SKIP() << missing;
    }

    static std::shared_ptr<Device> make(const Wish& wish = {}) { return GetParam().make(wish); }

    static Buffer filled(Device& device, const Bytes& bytes) {
        Buffer made = device.allocate_host(bytes.size());
        std::memcpy(made.data(), bytes.data(), bytes.size());
        return made;
    }
    static Bytes read(const Buffer& host) { return {host.data(), host.data() + host.size()}; }
    // Device memory with these bytes, or what is in it, by a stream of its own.
    static Buffer uploaded(Device& device, const Bytes& bytes) {
        const Buffer from = filled(device, bytes);
        Buffer made = device.allocate(bytes.size());
        device.make_stream()->copy(made.data(), from.data(), bytes.size(), kTakes).wait();
        return made;
    }
    static Bytes downloaded(Device& device, const Buffer& from) {
        const Buffer to = device.allocate_host(from.size());
        device.make_stream()->copy(to.data(), from.data(), from.size(), kTakes).wait();
        return read(to);
    }
};

INSTANTIATE_TEST_SUITE_P(Every, DeviceContract, ::testing::ValuesIn(factories()),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- memory --------------------------------------------------------------------------------------------------------

TEST_P(DeviceContract, AllocatesUpToItsMemoryAndSaysWhatIsFree) {
    const auto device = make();
    EXPECT_FALSE(device->name().empty());
    EXPECT_EQ(device->memory(), kMemory);
    const Buffer first = device->allocate(10 * kUnit);
    EXPECT_EQ(first.size(), 10 * kUnit);
    EXPECT_EQ(device->allocated(), 10 * kUnit);
    try {
        device->allocate(7 * kUnit);
        ADD_FAILURE() << "there is no room";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::budget);
        const std::string what = error.what();
        EXPECT_NE(what.find(bytes_text(7 * kUnit)), std::string::npos) << what;
        EXPECT_NE(what.find(bytes_text(6 * kUnit)), std::string::npos) << what;
    }
    EXPECT_EQ(device->allocated(), 10 * kUnit) << "a refusal takes nothing";
    const Buffer rest = device->allocate(6 * kUnit);
    EXPECT_EQ(device->allocated(), kMemory);
}

TEST_P(DeviceContract, WhatIsGivenBackCanBeTakenAgain) {
    const auto device = make();
    {
        const Buffer all = device->allocate(kMemory);
        EXPECT_THROW(device->allocate(kUnit), Error);
    }
    EXPECT_EQ(device->allocated(), 0u);
    const Buffer again = device->allocate(kUnit);
    EXPECT_EQ(device->allocated(), kUnit);
    EXPECT_EQ(device->peak(), kMemory) << "the most there ever was";
}

TEST_P(DeviceContract, BuffersMoveWithTheirMemory) {
    const auto device = make();
    Buffer first = device->allocate(kUnit), second = device->allocate(2 * kUnit);
    std::byte* const data = first.data();
    Buffer moved = std::move(first);
    EXPECT_EQ(moved.data(), data);
    EXPECT_EQ(device->allocated(), 3 * kUnit);
    second = std::move(moved);
    EXPECT_EQ(second.data(), data);
    moved = {};
    first = {};
    EXPECT_EQ(device->allocated(), kUnit) << "what was assigned to is given back";
    second = {};
    EXPECT_EQ(device->allocated(), 0u);
}

TEST_P(DeviceContract, HostMemoryIsNotTheDevices) {
    const auto device = make({.memory = kUnit});
    const Buffer host = device->allocate_host(4 * kUnit);
    EXPECT_EQ(host.size(), 4 * kUnit);
    EXPECT_EQ(device->allocated(), 0u);
    std::memset(host.data(), 1, host.size());
}

TEST_P(DeviceContract, MemoryIsAlignedAsMatricesMustBe) {
    const auto device = make();
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{100}, kUnit}) {
        const Buffer on_device = device->allocate(bytes), on_host = device->allocate_host(bytes);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(on_device.data()) % 64, 0u);
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(on_host.data()) % 64, 0u);
    }
}

TEST_P(DeviceContract, BuffersKeepTheDeviceAlive) {
    auto device = make();
    Buffer on_device = device->allocate(kUnit), on_host = device->allocate_host(kUnit);
    device.reset();
    std::memset(on_host.data(), 3, on_host.size());
    on_device = {};
    on_host = {};
}

// ---- copies --------------------------------------------------------------------------------------------------------

TEST_P(DeviceContract, BytesGoThereAndBack) {
    const auto device = make();
    for (const std::size_t bytes : {std::size_t{1}, std::size_t{4099}, kUnit + 5}) {
        const Bytes sent = random_bytes(bytes, 1);
        const Buffer there = uploaded(*device, sent);
        EXPECT_EQ(downloaded(*device, there), sent);
    }
}

TEST_P(DeviceContract, BytesGoFromOnePartOfItsMemoryToAnother) {
    const auto device = make();
    const Bytes sent = random_bytes(5000, 2);
    const Buffer first = uploaded(*device, sent), second = uploaded(*device, random_bytes(5000, 3));
    device->make_stream()->copy(second.data() + 1000, first.data() + 500, 2000, kTakes).wait();
    Bytes expected = random_bytes(5000, 3);
    std::copy_n(sent.begin() + 500, 2000, expected.begin() + 1000);
    EXPECT_EQ(downloaded(*device, second), expected);
    EXPECT_EQ(downloaded(*device, first), sent);
}

TEST_P(DeviceContract, PageableMemoryCanBeCopiedToo) {
    const auto device = make();
    const Bytes sent = random_bytes(10000, 4);
    Bytes received(sent.size());
    const Buffer there = device->allocate(sent.size());
    const auto stream = device->make_stream();
    stream->copy(there.data(), sent.data(), sent.size(), kTakes);
    stream->copy(received.data(), there.data(), sent.size(), kTakes).wait();
    EXPECT_EQ(received, sent);
}

TEST_P(DeviceContract, OneStreamWorksInTheOrderItWasGiven) {
    const auto device = make();
    const Bytes bytes[] = {random_bytes(kUnit, 5), random_bytes(kUnit, 6)};
    const Buffer first = filled(*device, bytes[0]), second = filled(*device, bytes[1]);
    const Buffer there = device->allocate(kUnit);
    const Buffer back_first = device->allocate_host(kUnit), back_second = device->allocate_host(kUnit);
    const auto stream = device->make_stream();
    // Nobody waits in between: what is there is read before it is written over.
    stream->copy(there.data(), first.data(), kUnit, kTakes);
    stream->copy(back_first.data(), there.data(), kUnit, kTakes);
    stream->copy(there.data(), second.data(), kUnit, 1);
    const Event last = stream->copy(back_second.data(), there.data(), kUnit, kTakes);
    last.wait();
    EXPECT_EQ(read(back_first), bytes[0]);
    EXPECT_EQ(read(back_second), bytes[1]);
}

TEST_P(DeviceContract, OneStreamFollowsAnotherByAnEvent) {
    const auto device = make();
    const Bytes sent = random_bytes(kUnit, 7);
    const Buffer from = filled(*device, sent), there = device->allocate(kUnit), back = device->allocate_host(kUnit);
    const auto writes = device->make_stream(), reads = device->make_stream();
    reads->wait(writes->copy(there.data(), from.data(), kUnit, kTakes));
    reads->copy(back.data(), there.data(), kUnit, 1).wait();
    EXPECT_EQ(read(back), sent);
}

TEST_P(DeviceContract, WhatFollowsAnEventFollowsWhatThatFollowed) {
    const auto device = make();
    const Bytes sent = random_bytes(kUnit, 8);
    const Buffer from = filled(*device, sent), there = device->allocate(kUnit), copied = device->allocate(kUnit);
    const Buffer other = device->allocate(64), spare = device->allocate_host(64), back = device->allocate_host(kUnit);
    const auto one = device->make_stream(), two = device->make_stream(), three = device->make_stream();
    two->wait(one->copy(there.data(), from.data(), kUnit, kTakes));
    three->wait(two->copy(other.data(), spare.data(), 64, 1));
    three->copy(copied.data(), there.data(), kUnit, 1);
    three->copy(back.data(), copied.data(), kUnit, 1).wait();
    EXPECT_EQ(read(back), sent);
}

TEST_P(DeviceContract, AStreamFollowsSeveralEventsTogether) {
    const auto device = make();
    const Bytes sent[] = {random_bytes(kUnit, 9), random_bytes(kUnit, 10)};
    const Buffer from[] = {filled(*device, sent[0]), filled(*device, sent[1])};
    const Buffer there = device->allocate(2 * kUnit), back = device->allocate_host(2 * kUnit);
    const auto one = device->make_stream(), two = device->make_stream(), reads = device->make_stream();
    reads->wait(all({one->copy(there.data(), from[0].data(), kUnit, kTakes),
                     two->copy(there.data() + kUnit, from[1].data(), kUnit, 2 * kTakes)}));
    reads->copy(back.data(), there.data(), 2 * kUnit, 1).wait();
    Bytes expected = sent[0];
    expected.insert(expected.end(), sent[1].begin(), sent[1].end());
    EXPECT_EQ(read(back), expected);
}

TEST_P(DeviceContract, WhatIsOverHoldsNoStreamUp) {
    const auto device = make();
    const Buffer from = filled(*device, random_bytes(64, 11)), there = device->allocate(64);
    const auto stream = device->make_stream();
    const Event first = stream->copy(there.data(), from.data(), 64, kTakes);
    first.wait();
    stream->wait(first);
    stream->wait({});
    stream->wait(all({}));
    stream->copy(there.data(), from.data(), 64, kTakes).wait();
}

TEST_P(DeviceContract, FinishingAStreamEndsAllThatItWasGiven) {
    const auto device = make();
    const Bytes sent = random_bytes(kUnit, 12);
    const Buffer from = filled(*device, sent), there = device->allocate(kUnit), back = device->allocate_host(kUnit);
    const auto stream = device->make_stream();
    stream->finish();
    const Event first = stream->copy(there.data(), from.data(), kUnit, kTakes);
    const Event second = stream->copy(back.data(), there.data(), kUnit, kTakes);
    stream->finish();
    EXPECT_TRUE(first.over() && second.over());
    EXPECT_EQ(read(back), sent);
}

TEST_P(DeviceContract, AStreamThatGoesEndsItsWork) {
    const auto device = make();
    const Bytes sent = random_bytes(kUnit, 13);
    const Buffer from = filled(*device, sent), there = device->allocate(kUnit), back = device->allocate_host(kUnit);
    Event last;
    {
        const auto stream = device->make_stream();
        stream->copy(there.data(), from.data(), kUnit, kTakes);
        last = stream->copy(back.data(), there.data(), kUnit, kTakes);
    }
    EXPECT_TRUE(last.over());
    EXPECT_EQ(read(back), sent);
}

// ---- events --------------------------------------------------------------------------------------------------------

TEST(DeviceEvent, OneThatWasNeverGivenAnythingIsOver) {
    const Event event;
    EXPECT_TRUE(event.over());
    event.wait();
    event.check();
}

TEST(DeviceEvent, AllOfNothingIsOver) {
    const Event event = all({Event(), all({})});
    EXPECT_TRUE(event.over());
    event.wait();
    event.check();
}

TEST_P(DeviceContract, AllAreOverWhenTheLastIs) {
    const auto device = make();
    const Buffer from = filled(*device, random_bytes(kUnit, 14)), there = device->allocate(2 * kUnit);
    const auto one = device->make_stream(), two = device->make_stream();
    const Event first = one->copy(there.data(), from.data(), kUnit, kTakes);
    const Event second = two->copy(there.data() + kUnit, from.data(), kUnit, 3 * kTakes);
    const Event both = all({first, {}, second});
    first.wait();
    EXPECT_TRUE(!both.over() || second.over());
    both.wait();
    EXPECT_TRUE(second.over() && both.over());
}

TEST_P(DeviceContract, WaitingForAnythingEndsEverythingInTheEnd) {
    const auto device = make();
    EXPECT_FALSE(device->wait_any());
    const Buffer from = filled(*device, random_bytes(kUnit, 15)), there = device->allocate(kUnit);
    const auto stream = device->make_stream();
    stream->copy(there.data(), from.data(), kUnit, kTakes);
    const Event last = stream->copy(there.data(), from.data(), kUnit, kTakes);
    while (!last.over()) ASSERT_TRUE(device->wait_any());
    EXPECT_EQ(downloaded(*device, there), read(from));
}

TEST_P(DeviceContract, EventsOutliveTheirStreamsAndDevices) {
    auto device = make();
    auto stream = device->make_stream();
    Buffer from = filled(*device, random_bytes(64, 16)), there = device->allocate(64);
    const Event event = stream->copy(there.data(), from.data(), 64, kTakes);
    stream.reset();
    from = {};
    there = {};
    device.reset();
    EXPECT_TRUE(event.over());
    event.wait();
}

TEST_P(DeviceContract, StreamsKeepTheDeviceAlive) {
    auto device = make();
    const auto stream = device->make_stream();
    const Bytes sent = random_bytes(64, 17);
    const Buffer from = filled(*device, sent), there = device->allocate(64), back = device->allocate_host(64);
    device.reset();
    stream->copy(there.data(), from.data(), 64, kTakes);
    stream->copy(back.data(), there.data(), 64, kTakes).wait();
    EXPECT_EQ(read(back), sent);
}

TEST_P(DeviceContract, AFailureIsInItsEventAndNothingElseFails) {
    if (!GetParam().can_fail) GTEST_SKIP() << "copies do not fail on demand";
    const auto device = make({.failed_copy = 2});
    const Bytes sent = random_bytes(kUnit, 18);
    const Buffer from = filled(*device, sent), there = device->allocate(3 * kUnit);
    const auto stream = device->make_stream();
    const Event first = stream->copy(there.data(), from.data(), kUnit, kTakes);
    const Event second = stream->copy(there.data() + kUnit, from.data(), kUnit, kTakes);
    const Event third = stream->copy(there.data() + 2 * kUnit, from.data(), kUnit, kTakes);
    const Event every = all({first, second, third});
    stream->finish();
    EXPECT_TRUE(second.over()) << "over, and failed";
    first.wait();
    third.check();
    const Event* const failed[] = {&second, &every};
    for (const Event* const one : failed) {
        EXPECT_THROW(one->wait(), Error);
        try {
            one->check();
            ADD_FAILURE() << "it failed";
        } catch (const Error& error) {
            EXPECT_EQ(error.kind(), ErrorKind::io);
        }
    }
    const Buffer back = device->allocate_host(kUnit);
    for (const std::size_t at : {std::size_t{0}, 2 * kUnit}) {
        stream->copy(back.data(), there.data() + at, kUnit, kTakes).wait();
        EXPECT_EQ(read(back), sent);
    }
    // Once more, and it is there.
    stream->copy(there.data() + kUnit, from.data(), kUnit, kTakes).wait();
    stream->copy(back.data(), there.data() + kUnit, kUnit, kTakes).wait();
    EXPECT_EQ(read(back), sent);
}

TEST_P(DeviceContract, WhoFollowsAFailureGoesOn) {
    if (!GetParam().can_fail) GTEST_SKIP() << "copies do not fail on demand";
    const auto device = make({.failed_copy = 1});
    const Bytes sent = random_bytes(64, 19);
    const Buffer from = filled(*device, sent), there = device->allocate(128), back = device->allocate_host(64);
    const auto one = device->make_stream(), two = device->make_stream();
    two->wait(one->copy(there.data(), from.data(), 64, kTakes));
    two->copy(there.data() + 64, from.data(), 64, kTakes);
    two->copy(back.data(), there.data() + 64, 64, kTakes).wait();
    EXPECT_EQ(read(back), sent);
}

// ---- experts -------------------------------------------------------------------------------------------------------

constexpr int kHidden = 100, kWidth = 72, kRows = 9;  // hidden: not a multiple of a panel or a group

// An expert, as a record, with the rows that chose it.
struct Expert {
    Bytes record;
    quant::MatrixSpec specs[3];
    std::size_t offsets[3];
    std::vector<std::int32_t> rows;

    kernels::ExpertJob job(const std::byte* data, float* y) const {
        const auto matrix = [&](int part) { return kernels::Matrix{data + offsets[part], specs[part], nullptr}; };
        return {{matrix(0), matrix(1), matrix(2)}, rows, y};
    }
    std::size_t outputs() const { return rows.size() * static_cast<std::size_t>(kHidden); }
};

Expert random_expert(FormatCase format, unsigned seed, std::vector<std::int32_t> rows) {
    Expert made;
    made.rows = std::move(rows);
    for (unsigned part = 0; part < 3; ++part) {
        const auto [height, width] = part == 2 ? std::pair{kHidden, kWidth} : std::pair{kWidth, kHidden};
        const auto matrix = testing::random_matrix(height, width, format.format, format.scale, seed + part);
        made.specs[part] = matrix.matrix.spec;
        made.offsets[part] = made.record.size();
        made.record.insert(made.record.end(), matrix.bytes.get(), matrix.bytes.get() + made.specs[part].bytes());
    }
    return made;
}

std::vector<FormatCase> formats() {
    using quant::Format, quant::ScaleType;
    return {{Format::bf16, ScaleType::none}, {Format::q8, ScaleType::f16}, {Format::q4, ScaleType::f16}};
}

// Experts of one layer, of one format each or of several, and what the processor answers.
struct Layer {
    explicit Layer(const std::vector<FormatCase>& of, unsigned seed = 1)
        : x(testing::normal_floats(static_cast<std::size_t>(kRows * kHidden), seed)) {
        const std::vector<std::vector<std::int32_t>> rows{{0, 3, 8}, {1}, {0, 1, 2, 3, 4, 5, 6, 7, 8}};
        for (std::size_t i = 0; i < rows.size(); ++i) {
            experts.push_back(random_expert(of[i % of.size()], seed + 10 * static_cast<unsigned>(i), rows[i]));
            integer = integer || quant::is_integer(of[i % of.size()].format);
        }
    }

    std::vector<float> expected() const {
        std::vector<testing::AlignedBytes> records;
        std::vector<std::vector<float>> outputs;
        std::vector<kernels::ExpertJob> jobs;
        for (const Expert& expert : experts) {
            records.push_back(testing::aligned_bytes(expert.record.size()));
            std::memcpy(records.back().get(), expert.record.data(), expert.record.size());
            outputs.emplace_back(expert.outputs());
            jobs.push_back(expert.job(records.back().get(), outputs.back().data()));
        }
        kernels::Activations input;
        input.prepare(compute(), x.data(), kRows, kHidden, integer);
        kernels::MlpScratch scratch;
        kernels::experts(compute(), input, jobs, scratch);
        std::vector<float> together;
        for (const auto& one : outputs) together.insert(together.end(), one.begin(), one.end());
        return together;
    }
    std::size_t x_bytes() const { return x.size() * sizeof(float); }
    std::size_t y_bytes() const {
        std::size_t floats = 0;
        for (const Expert& expert : experts) floats += expert.outputs();
        return floats * sizeof(float);
    }

    std::vector<float> x;
    std::vector<Expert> experts;
    bool integer = false;
};

std::vector<float> floats(const Bytes& bytes) {
    std::vector<float> made(bytes.size() / sizeof(float));
    std::memcpy(made.data(), bytes.data(), bytes.size());
    return made;
}

Bytes bytes_of(const std::vector<float>& values) {
    Bytes made(values.size() * sizeof(float));
    std::memcpy(made.data(), values.data(), made.size());
    return made;
}

// The layer's jobs over records that are on the device, outputs one behind the other from y on.
std::vector<kernels::ExpertJob> jobs_over(const Layer& layer, const std::vector<Buffer>& records, std::byte* y) {
    std::vector<kernels::ExpertJob> jobs;
    auto* at = reinterpret_cast<float*>(y);
    for (std::size_t i = 0; i < layer.experts.size(); ++i) {
        jobs.push_back(layer.experts[i].job(records[i].data(), at));
        at += layer.experts[i].outputs();
    }
    return jobs;
}

ExpertsLaunch launch_of(const Layer& layer, std::span<const kernels::ExpertJob> jobs, const std::byte* x) {
    return {jobs, reinterpret_cast<const float*>(x), kRows, kHidden, layer.integer};
}

TEST_P(DeviceContract, ExpertsHaveTheProcessorsBits) {
    std::vector<std::vector<FormatCase>> cases{formats()};  // of all formats in one launch
    for (const FormatCase format : formats()) cases.push_back({format});
    for (const auto& of : cases) {
        SCOPED_TRACE(of.size() > 1 ? "mixed" : of.front().name());
        const Layer layer(of);
        const auto device = make();
        std::vector<Buffer> records;
        for (const Expert& expert : layer.experts) records.push_back(uploaded(*device, expert.record));
        const Buffer x = uploaded(*device, bytes_of(layer.x)), y = device->allocate(layer.y_bytes());
        const auto jobs = jobs_over(layer, records, y.data());
        device->make_stream()->experts(launch_of(layer, jobs, x.data()), kTakes).wait();
        testing::expect_same_bits(floats(downloaded(*device, y)), layer.expected());
    }
}

TEST_P(DeviceContract, InputsAndOutputsMayBeInPinnedMemory) {
    const Layer layer(formats());
    const auto device = make();
    std::vector<Buffer> records;
    for (const Expert& expert : layer.experts) records.push_back(uploaded(*device, expert.record));
    const Buffer x = filled(*device, bytes_of(layer.x)), y = device->allocate_host(layer.y_bytes());
    if (!x.pinned() || !y.pinned()) GTEST_SKIP() << "this system pins no memory";
    const auto jobs = jobs_over(layer, records, y.data());
    device->make_stream()->experts(launch_of(layer, jobs, x.data()), kTakes).wait();
    testing::expect_same_bits(floats(read(y)), layer.expected());
}

// As a layer runs: records and the input go there, experts are computed, the output comes back; nobody waits between.
TEST_P(DeviceContract, ExpertsFollowTheCopiesOfTheirStreamAndOthersByEvents) {
    const Layer layer(formats(), 3);
    const auto device = make();
    const auto link = device->make_stream(), work = device->make_stream();
    std::vector<Buffer> from, records;
    for (const Expert& expert : layer.experts) {
        from.push_back(filled(*device, expert.record));
        records.push_back(device->allocate(expert.record.size()));
        work->wait(link->copy(records.back().data(), from.back().data(), expert.record.size(), kTakes));
    }
    const Buffer x_here = filled(*device, bytes_of(layer.x)), x = device->allocate(layer.x_bytes());
    const Buffer y = device->allocate(layer.y_bytes()), y_here = device->allocate_host(layer.y_bytes());
    work->copy(x.data(), x_here.data(), layer.x_bytes(), 1);
    const auto jobs = jobs_over(layer, records, y.data());
    work->experts(launch_of(layer, jobs, x.data()), 1);
    work->copy(y_here.data(), y.data(), layer.y_bytes(), 1).wait();
    testing::expect_same_bits(floats(read(y_here)), layer.expected());
}

TEST_P(DeviceContract, JobsAndTheirRowsAreCopied) {
    Layer layer(formats(), 5);
    const std::vector<float> expected = layer.expected();
    const auto device = make();
    std::vector<Buffer> records;
    for (const Expert& expert : layer.experts) records.push_back(uploaded(*device, expert.record));
    const Buffer x = uploaded(*device, bytes_of(layer.x)), y = device->allocate(layer.y_bytes());
    auto jobs = jobs_over(layer, records, y.data());
    const auto stream = device->make_stream();
    const Event over = stream->experts(launch_of(layer, jobs, x.data()), kTakes);
    for (Expert& expert : layer.experts) std::fill(expert.rows.begin(), expert.rows.end(), 0);
    jobs.assign(jobs.size(), {});
    over.wait();
    testing::expect_same_bits(floats(downloaded(*device, y)), expected);
}

TEST_P(DeviceContract, OneLaunchAfterTheOtherUsesTheSameMemory) {
    const auto device = make();
    const auto stream = device->make_stream();
    std::vector<std::vector<float>> expected;
    std::vector<Buffer> received;
    const Layer layers[] = {Layer(formats(), 7), Layer(formats(), 8)};
    std::vector<Buffer> records, from, x_here;
    for (const Expert& expert : layers[0].experts) records.push_back(device->allocate(expert.record.size()));
    const Buffer x = device->allocate(layers[0].x_bytes()), y = device->allocate(layers[0].y_bytes());
    for (const Layer& layer : layers) {
        for (std::size_t i = 0; i < records.size(); ++i) {
            from.push_back(filled(*device, layer.experts[i].record));
            stream->copy(records[i].data(), from.back().data(), from.back().size(), kTakes);
        }
        x_here.push_back(filled(*device, bytes_of(layer.x)));
        stream->copy(x.data(), x_here.back().data(), layer.x_bytes(), kTakes);
        const auto jobs = jobs_over(layer, records, y.data());
        stream->experts(launch_of(layer, jobs, x.data()), kTakes);
        received.push_back(device->allocate_host(layer.y_bytes()));
        stream->copy(received.back().data(), y.data(), layer.y_bytes(), kTakes);
    }
    stream->finish();
    for (std::size_t i = 0; i < 2; ++i) testing::expect_same_bits(floats(read(received[i])), layers[i].expected());
}

}  // namespace
}  // namespace moestro::device
