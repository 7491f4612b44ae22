// What is special about CUDA: what can be missing, what memory is left, and failures that stay. On the CUDA of tests.
#include "device/cuda.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/bytes.h"
#include "base/error.h"
#include "cuda_shim/shim.h"
#include "kernels/matrices.h"

namespace moestro::device {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

class CudaDevices : public ::testing::Test {
  protected:
    void SetUp() override { cuda_shim::reset(); }
    void TearDown() override {
        cuda_shim::reset();
        EXPECT_TRUE(cuda_shim::nothing_left());
    }
};

struct Refusal {
    ErrorKind kind = ErrorKind::internal;
    std::string what;
    bool says(const std::string& part) const { return what.find(part) != std::string::npos; }
};

template <class Body>
Refusal refusal_of(const Body& body) {
    try {
        body();
    } catch (const Error& error) {
        return {error.kind(), error.what()};
    }
    return {};
}

// ---- what can be missing --------------------------------------------------------------------------------------------

TEST_F(CudaDevices, SayWhatTheyAre) {
    cuda_shim::reset({.memory = 64 * kMiB, .context = 5 * kMiB, .devices = 2, .major = 9});
    const CudaInfo info = cuda_info();
    EXPECT_TRUE(info.built);
    EXPECT_EQ(info.missing, "");
    EXPECT_EQ(info.driver, 13000);
    ASSERT_EQ(info.devices.size(), 2u);
    EXPECT_EQ(info.devices[1].missing, "");
    EXPECT_EQ(info.devices[1].major, 9);
    EXPECT_EQ(info.devices[1].total, 64 * kMiB);
    EXPECT_EQ(info.devices[1].free, 59 * kMiB) << "without what CUDA takes itself";
    EXPECT_EQ(make_cuda({.ordinal = 1, .memory = kMiB, .work = kMiB})->name(), "cuda:1 (a processor as a GPU)");
}

TEST_F(CudaDevices, AMissingDriverIsNamed) {
    cuda_shim::reset({.driver = 0, .unusable = cudaErrorInsufficientDriver});
    EXPECT_EQ(cuda_info().missing,
              "no NVIDIA driver is installed: this moestro needs driver 580 or newer, for CUDA 13.0");
    const Refusal refusal = refusal_of([] { make_cuda({.memory = kMiB}); });
    EXPECT_EQ(refusal.kind, ErrorKind::unsupported);
    EXPECT_EQ(refusal.what, cuda_info().missing);
}

TEST_F(CudaDevices, AnOldDriverIsNamed) {
    cuda_shim::reset({.driver = 11040, .runtime = 12080, .unusable = cudaErrorInsufficientDriver});
    EXPECT_EQ(
        cuda_info().missing,
        "the NVIDIA driver is too old: it is for CUDA 11.4, this moestro needs driver 525 or newer, for CUDA 12.8");
}

TEST_F(CudaDevices, NoDeviceIsNamedAndWhoHidesIt) {
    cuda_shim::reset({.devices = 0});
    unsetenv("CUDA_VISIBLE_DEVICES");
    EXPECT_EQ(cuda_info().missing, "no NVIDIA GPU was found");
    setenv("CUDA_VISIBLE_DEVICES", "-1", 1);
    EXPECT_EQ(cuda_info().missing, "no NVIDIA GPU can be seen: CUDA_VISIBLE_DEVICES is '-1'");
    unsetenv("CUDA_VISIBLE_DEVICES");
}

TEST_F(CudaDevices, AnOldDeviceIsNamed) {
    cuda_shim::reset({.major = 7, .minor = 0});
    EXPECT_NE(cuda_info().missing.find("7.0: moestro needs 7.5"), std::string::npos) << cuda_info().missing;
    EXPECT_EQ(refusal_of([] { make_cuda({.memory = kMiB}); }).what, cuda_info().missing);
}

TEST_F(CudaDevices, ADeviceThatIsNotThereIsRefused) {
    const Refusal refusal = refusal_of([] { make_cuda({.ordinal = 1, .memory = kMiB}); });
    EXPECT_EQ(refusal.kind, ErrorKind::unsupported);
    EXPECT_TRUE(refusal.says("there is no device cuda:1: there is one, cuda:0")) << refusal.what;
}

// ---- memory ---------------------------------------------------------------------------------------------------------

TEST_F(CudaDevices, MemoryThatIsNotThereIsRefusedAtOnce) {
    cuda_shim::reset({.memory = 40 * kMiB, .context = 8 * kMiB});
    const Refusal refusal = refusal_of([] { make_cuda({.memory = 33 * kMiB, .work = kMiB}); });
    EXPECT_EQ(refusal.kind, ErrorKind::budget);
    EXPECT_TRUE(refusal.says(bytes_text(33 * kMiB)) && refusal.says(bytes_text(32 * kMiB))) << refusal.what;
    const Refusal second = refusal_of([] { make_cuda({.memory = 30 * kMiB, .work = 3 * kMiB}); });
    EXPECT_EQ(second.kind, ErrorKind::budget) << "and what was taken before is given back";
    make_cuda({.memory = 30 * kMiB, .work = kMiB});
}

TEST_F(CudaDevices, GapsAreUsedAgainAndJoined) {
    const auto device = make_cuda({.memory = 4 * kMiB, .work = kMiB});
    std::vector<Buffer> quarters;
    for (int i = 0; i < 4; ++i) quarters.push_back(device->allocate(kMiB));
    std::byte* const begin = quarters[0].data();
    quarters[0] = {};
    quarters[2] = {};
    const Refusal refusal = refusal_of([&] { device->allocate(kMiB + 1); });
    EXPECT_EQ(refusal.kind, ErrorKind::budget);
    EXPECT_TRUE(refusal.says("2.00 MiB of 4.00 MiB are free, no more than 1.00 MiB in one piece")) << refusal.what;
    quarters[1] = {};
    const Buffer joined = device->allocate(3 * kMiB);
    EXPECT_EQ(joined.data(), begin);
    EXPECT_EQ(device->allocated(), 4 * kMiB);
}

TEST_F(CudaDevices, SmallBuffersAreAligned) {
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    std::vector<Buffer> buffers;
    for (const std::size_t bytes : {1, 255, 256, 257}) {
        buffers.push_back(device->allocate(bytes));
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffers.back().data()) % 256, 0u);
        EXPECT_EQ(buffers.back().size(), bytes);
    }
    EXPECT_EQ(device->allocated(), 5u * 256) << "each is rounded up";
}

TEST_F(CudaDevices, WhereNothingCanBePinnedMemoryIsPageable) {
    cuda_shim::reset({.failed_host_alloc = 1});
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    const Buffer here = device->allocate_host(100), there = device->allocate(100);
    EXPECT_FALSE(here.pinned());
    std::memset(here.data(), 7, here.size());
    const auto stream = device->make_stream();
    stream->copy(there.data(), here.data(), 100, 0);
    std::memset(here.data(), 0, here.size());
    stream->copy(here.data(), there.data(), 100, 0).wait();
    EXPECT_EQ(here.data()[99], std::byte{7});
    EXPECT_FALSE(device->pin(here.data(), 4096)) << "nor can what is there";
}

TEST_F(CudaDevices, MemoryThatIsThereCanBePinned) {
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    auto* const data = static_cast<std::byte*>(std::aligned_alloc(4096, 8192));
    EXPECT_TRUE(device->pin(data, 8192));
    EXPECT_FALSE(device->pin(data, 8192)) << "it is already";
    device->unpin(data);
    EXPECT_TRUE(device->pin(data, 8192));
    device->unpin(data);
    std::free(data);
}

// ---- failures -------------------------------------------------------------------------------------------------------

TEST_F(CudaDevices, CopiesOutsideTheirBuffersAreRefused) {
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    const Buffer here = device->allocate_host(100), there = device->allocate(100), next = device->allocate(1000);
    const auto stream = device->make_stream();
    EXPECT_THROW(stream->copy(there.data(), next.data(), 101, 0), Error);
    EXPECT_THROW(stream->copy(next.data(), here.data(), 101, 0), Error);
    stream->copy(there.data(), here.data(), 100, 0).wait();
}

TEST_F(CudaDevices, ARefusedCopyIsThrownAndForgotten) {
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    const Buffer here = device->allocate_host(100), there = device->allocate(100);
    const auto stream = device->make_stream();
    cuda_shim::reset({.refused_copy = 1});
    EXPECT_EQ(refusal_of([&] { stream->copy(there.data(), here.data(), 100, 0); }).kind, ErrorKind::io);
    stream->copy(there.data(), here.data(), 100, 0).wait();
}

TEST_F(CudaDevices, WhatFailsLaterIsInItsEventAndStays) {
    cuda_shim::reset({.failed_copy = 2});
    {
        const auto device = make_cuda({.memory = kMiB, .work = kMiB});
        const Buffer here = device->allocate_host(100), there = device->allocate(100);
        const auto stream = device->make_stream();
        const Event first = stream->copy(there.data(), here.data(), 100, 0);
        first.wait();
        const Event second = stream->copy(there.data(), here.data(), 100, 0);
        const Refusal failure = refusal_of([&] { second.wait(); });
        EXPECT_EQ(failure.kind, ErrorKind::io);
        EXPECT_TRUE(failure.says("cudaErrorIllegalAddress") && failure.says("until the process is started again"))
            << failure.what;
        EXPECT_EQ(refusal_of([&] { second.check(); }).what, failure.what) << "as often as one asks";
        first.check();
        EXPECT_TRUE(refusal_of([&] { stream->copy(there.data(), here.data(), 100, 0); }).says("started again"));
        EXPECT_FALSE(device->wait_any());
    }
    cuda_shim::reset();  // as another process
}

TEST_F(CudaDevices, WhatIsUnderWayEndsWithItsStream) {
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    const Buffer here = device->allocate_host(100), there = device->allocate(100), back = device->allocate_host(100);
    std::memset(here.data(), 9, here.size());
    {
        const auto one = device->make_stream(), two = device->make_stream();
        two->wait(one->copy(there.data(), here.data(), 100, 0));
        two->copy(back.data(), there.data(), 100, 0);  // nobody keeps its event
    }
    EXPECT_EQ(back.data()[99], std::byte{9});
    EXPECT_FALSE(device->wait_any());
}

// ---- experts --------------------------------------------------------------------------------------------------------

// One expert of q8 over some rows.
struct SomeRows {
    static constexpr int kHidden = 64, kWidth = 96;

    SomeRows(Device& device, int count)
        : gate(testing::random_matrix(kWidth, kHidden, quant::Format::q8, quant::ScaleType::f16, 1)),
          down(testing::random_matrix(kHidden, kWidth, quant::Format::q8, quant::ScaleType::f16, 2)),
          gate_there(upload(device, {gate.bytes.get(), gate.matrix.spec.bytes()})),
          down_there(upload(device, {down.bytes.get(), down.matrix.spec.bytes()})),
          values(testing::normal_floats(static_cast<std::size_t>(count * kHidden), 3)),
          x(upload(device, std::as_bytes(std::span(values)))),
          y(device.allocate_host(x.size())),
          rows(static_cast<std::size_t>(count)) {
        std::iota(rows.begin(), rows.end(), 0);
    }

    Event run(Stream& stream) {
        const kernels::Matrix in{gate_there.data(), gate.matrix.spec, nullptr};
        const kernels::Matrix out{down_there.data(), down.matrix.spec, nullptr};
        const kernels::ExpertJob job{{in, in, out}, rows, reinterpret_cast<float*>(y.data())};
        const int count = static_cast<int>(rows.size());
        return stream.experts({{&job, 1}, reinterpret_cast<const float*>(x.data()), count, kHidden, true}, 0);
    }
    std::vector<float> expected() const {
        kernels::Compute compute(1, kernels::choose_isa(""));
        kernels::Activations input;
        input.prepare(compute, values.data(), static_cast<int>(rows.size()), kHidden, true);
        std::vector<float> found(values.size());
        const kernels::ExpertJob job{{gate.matrix, gate.matrix, down.matrix}, rows, found.data()};
        kernels::MlpScratch scratch;
        kernels::experts(compute, input, {&job, 1}, scratch);
        return found;
    }
    std::vector<float> found() const {
        const auto* const begin = reinterpret_cast<const float*>(y.data());
        return {begin, begin + values.size()};
    }

    testing::PackedMatrix gate, down;
    Buffer gate_there, down_there;
    std::vector<float> values;
    Buffer x, y;
    std::vector<std::int32_t> rows;
};

TEST_F(CudaDevices, LittleMemoryForLaunchesChangesNoBit) {
    for (const std::size_t work : {std::size_t{700} << 10, kMiB, 16 * kMiB}) {
        const auto device = make_cuda({.memory = kMiB, .work = work});
        SomeRows some(*device, 700);
        const auto stream = device->make_stream();
        some.run(*stream).wait();
        testing::expect_same_bits(some.found(), some.expected());
    }
    const auto device = make_cuda({.memory = kMiB, .work = std::size_t{100} << 10});
    SomeRows some(*device, 700);
    const auto stream = device->make_stream();
    EXPECT_EQ(refusal_of([&] { some.run(*stream); }).kind, ErrorKind::budget) << "its inputs alone do not fit";
}

TEST_F(CudaDevices, LaunchesOneAfterTheOtherUseTheirArgumentsAlone) {
    const auto device = make_cuda({.memory = kMiB, .work = 2 * kMiB});
    std::vector<std::unique_ptr<SomeRows>> all;
    for (int count = 1; count < 60; count += 7) all.push_back(std::make_unique<SomeRows>(*device, count));
    const auto stream = device->make_stream();
    for (int round = 0; round < 40; ++round)  // many times around the ring, and nobody waits
        for (const auto& one : all) one->run(*stream);
    stream->finish();
    for (const auto& one : all) testing::expect_same_bits(one->found(), one->expected());
}

TEST_F(CudaDevices, AFaultIsItsLaunchsAlone) {
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    SomeRows fine(*device, 3), bad(*device, 3);
    bad.values[70] = std::numeric_limits<float>::infinity();
    bad.x = upload(*device, std::as_bytes(std::span(bad.values)));
    const auto stream = device->make_stream();
    const Event before = fine.run(*stream), failed = bad.run(*stream), after = fine.run(*stream);
    after.wait();
    before.wait();
    testing::expect_same_bits(fine.found(), fine.expected());
    EXPECT_EQ(refusal_of([&] { failed.wait(); }).kind, ErrorKind::numeric);
}

TEST_F(CudaDevices, ALaunchThatIsRefusedIsThrown) {
    const auto device = make_cuda({.memory = kMiB, .work = kMiB});
    SomeRows some(*device, 3);
    const auto stream = device->make_stream();
    cuda_shim::reset({.failed_launch = 2});
    EXPECT_TRUE(refusal_of([&] { some.run(*stream); }).says("compute experts"));
    some.run(*stream).wait();
    testing::expect_same_bits(some.found(), some.expected());
}

}  // namespace
}  // namespace moestro::device
