// The CUDA of tests itself: what hardware would not forgive, it must not either.
#include "cuda_shim/shim.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "cuda_shim/block.h"
#include "kernels/cuda/hardware.cuh"

namespace moestro::kernels::cuda {
namespace {

using cuda_shim::KernelError;
using cuda_shim::Order;

constexpr Order kOrders[] = {Order::forward, Order::reverse, Order::random};

class CudaShim : public ::testing::Test {
  protected:
    void SetUp() override { cuda_shim::reset(); }
    void TearDown() override { cuda_shim::reset(); }
};

// Device memory that goes with its scope.
template <class T>
class OnDevice {
  public:
    explicit OnDevice(std::size_t count) : count_(count) { EXPECT_EQ(cudaMalloc(&data_, count * sizeof(T)), 0); }
    explicit OnDevice(const std::vector<T>& values) : OnDevice(values.size()) {
        EXPECT_EQ(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyDefault), 0);
    }
    ~OnDevice() { cudaFree(data_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

    T* data() const { return data_; }
    std::vector<T> values() const {
        std::vector<T> made(count_);
        EXPECT_EQ(cudaMemcpy(made.data(), data_, count_ * sizeof(T), cudaMemcpyDefault), 0);
        return made;
    }

  private:
    T* data_ = nullptr;
    std::size_t count_;
};

template <class... Parameters, class... Arguments>
cudaError_t launch(dim3 grid, dim3 block, std::size_t shared, void (*kernel)(Parameters...),
                   const Arguments&... arguments) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

// What an execution on the spot fails with.
std::string error_of(const std::function<void()>& run) {
    try {
        run();
    } catch (const KernelError& error) {
        return error.what();
    }
    return "";
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

__global__ void turn_around(int* data, bool waits) {
    __shared__ int kept[128];
    kept[threadIdx.x] = data[blockIdx.x * 128 + threadIdx.x];
    if (waits) __syncthreads();
    data[blockIdx.x * 128 + threadIdx.x] = kept[127 - threadIdx.x];
}

std::vector<int> numbers(int count) {
    std::vector<int> made(static_cast<std::size_t>(count));
    std::iota(made.begin(), made.end(), 0);
    return made;
}

TEST_F(CudaShim, BarriersOrderABlock) {
    std::vector<int> expected;
    for (int block = 0; block < 3; ++block)
        for (int i = 0; i < 128; ++i) expected.push_back(128 * block + 127 - i);
    for (const Order order : kOrders) {
        cuda_shim::set_order(order);
        const OnDevice<int> data(numbers(3 * 128));
        ASSERT_EQ(launch(3, 128, 0, turn_around, data.data(), true), 0);
        EXPECT_EQ(data.values(), expected);
        ASSERT_EQ(launch(3, 128, 0, turn_around, data.data(), false), 0);
        EXPECT_NE(data.values(), numbers(3 * 128)) << "a forgotten barrier shows";
    }
}

__global__ void number_threads(unsigned* out) {
    const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    atomicAdd(&out[block * blockDim.x * blockDim.y * blockDim.z + thread], 1u);
}

TEST_F(CudaShim, EveryThreadOfEveryBlockRunsOnce) {
    for (const Order order : kOrders) {
        cuda_shim::set_order(order);
        const OnDevice<unsigned> out(std::vector<unsigned>(2 * 3 * 4 * 5 * 6 * 7, 0));
        ASSERT_EQ(launch({2, 3, 4}, {5, 6, 7}, 0, number_threads, out.data()), 0);
        EXPECT_EQ(out.values(), std::vector<unsigned>(2 * 3 * 4 * 5 * 6 * 7, 1));
    }
}

__global__ void vote(int* out) {
    const bool third = threadIdx.x % 3 == 0;
    const int any = __syncthreads_or(threadIdx.x == 77), all = __syncthreads_and(threadIdx.x < 96);
    const int none = __syncthreads_or(0), count = __syncthreads_count(third);
    const unsigned ballot = __ballot_sync(kAllLanes, third);
    if (threadIdx.x == 40) {
        out[0] = any && all && !none;
        out[1] = count;
        out[2] = static_cast<int>(ballot);
        out[3] = __popc(ballot);
    }
}

TEST_F(CudaShim, VotesAreCounted) {
    const OnDevice<int> out(4);
    ASSERT_EQ(launch(1, 96, 0, vote, out.data()), 0);
    EXPECT_EQ(out.values(), (std::vector<int>{1, 32, static_cast<int>(0x92492492u), 11})) << "33, 36, ... of 32 to 63";
}

__global__ void shuffle(int* out) {
    const int lane = static_cast<int>(threadIdx.x);
    int sum = lane;
    for (int by = 16; by; by /= 2) sum += __shfl_xor_sync(kAllLanes, sum, by);
    out[lane] = sum;
    out[32 + lane] = __shfl_sync(kAllLanes, lane, lane + 1, 8);
    out[64 + lane] = __shfl_down_sync(kAllLanes, lane, 4, 16);
    out[96 + lane] = __shfl_up_sync(kAllLanes, lane, 1);
    // Halves on their own ways.
    if (lane < 16)
        out[128 + lane] = __shfl_sync(0xffffu, lane, 3);
    else
        for (int i = 0; i < 3; ++i) out[128 + lane] = __shfl_sync(0xffff0000u, lane + i, 20);
}

TEST_F(CudaShim, LanesShuffle) {
    std::vector<int> expected;
    for (int i = 0; i < 32; ++i) expected.push_back(31 * 16);
    for (int i = 0; i < 32; ++i) expected.push_back(i / 8 * 8 + (i + 1) % 8);
    for (int i = 0; i < 32; ++i) expected.push_back(i % 16 < 12 ? i + 4 : i);
    for (int i = 0; i < 32; ++i) expected.push_back(i ? i - 1 : 0);
    for (int i = 0; i < 32; ++i) expected.push_back(i < 16 ? 3 : 22);
    for (const Order order : kOrders) {
        cuda_shim::set_order(order);
        const OnDevice<int> out(expected.size());
        ASSERT_EQ(launch(1, 32, 0, shuffle, out.data()), 0);
        EXPECT_EQ(out.values(), expected);
    }
}

// ---- blocks at once -------------------------------------------------------------------------------------------------

// Between the two blocks of a launch, and to where it began: each adds its number and one.
__global__ void hand_to_and_fro(std::uint32_t* mark, std::uint32_t* sums, unsigned times) {
    __shared__ std::uint32_t mine, bad;
    auto* const dynamic = reinterpret_cast<std::uint32_t*>(shared_memory());
    if (threadIdx.x == 0) bad = mine != 0xffffffffu || *dynamic != 0xffffffffu;
    __syncthreads();
    if (threadIdx.x == 0) mine = *dynamic = blockIdx.x;
    __syncthreads();
    for (unsigned i = 0; i < times; ++i) {
        while (load_mark(mark) < 2 * i + blockIdx.x) {
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            sums[0] += mine + 1;
            bad |= *dynamic != blockIdx.x;
            __threadfence();
            atomicAdd(mark, 1u);
        }
    }
    if (threadIdx.x == 0) sums[1 + blockIdx.x] = bad;
}

TEST_F(CudaShim, BlocksWaitForEachOther) {
    for (const Order order : kOrders)
        for (const std::size_t blocks : {2, 3}) {
            cuda_shim::set_order(order, 3);
            cuda_shim::set_blocks_at_once(blocks);
            const OnDevice<std::uint32_t> mark(std::vector<std::uint32_t>{0}),
                sums(std::vector<std::uint32_t>{0, 9, 9});
            ASSERT_EQ(launch(2, 40, 4, hand_to_and_fro, mark.data(), sums.data(), 20u), 0);
            EXPECT_EQ(sums.values(), (std::vector<std::uint32_t>{20 * 1 + 20 * 2, 0, 0}));
            EXPECT_EQ(mark.values()[0], 40u);
        }
}

__global__ void look_around(std::uint32_t* begun, std::uint32_t* seen) {
    if (threadIdx.x == 0) seen[blockIdx.x] = atomicAdd(begun, 1u);
    __syncthreads();
    if (threadIdx.x == 0) seen[gridDim.x + blockIdx.x] = *begun;
}

TEST_F(CudaShim, AsManyBlocksBeginAsAreAskedFor) {
    for (const Order order : kOrders) {
        cuda_shim::set_order(order, 5);
        cuda_shim::set_blocks_at_once(3);
        const OnDevice<std::uint32_t> begun(std::vector<std::uint32_t>{0}), seen(2 * 9);
        ASSERT_EQ(launch(9, 64, 0, look_around, begun.data(), seen.data()), 0);
        const std::vector<std::uint32_t> values = seen.values();
        if (order != Order::random) {
            EXPECT_TRUE(std::is_sorted(values.begin(), values.begin() + 9)) << "as they are numbered";
            EXPECT_EQ(values[9 + (order == Order::forward ? 0 : 2)], 3u) << "three are there before one goes on";
            EXPECT_EQ(values[9 + 0], order == Order::forward ? 3u : 9u) << "the first goes on last, in reverse";
        }
        EXPECT_EQ(begun.values()[0], 9u);
    }
}

__global__ void mark_too_early(std::uint32_t* mark, std::uint32_t* value, std::uint32_t* read) {
    if (blockIdx.x == 0) {
        atomicAdd(mark, 1u);
        *value = 7;
    } else {
        while (!load_mark(mark)) {
        }
        *read = *value;
    }
}

TEST_F(CudaShim, AMarkThatComesTooEarlyShows) {
    int too_early = 0;
    for (std::uint64_t seed = 0; seed < 50; ++seed) {
        cuda_shim::set_order(Order::random, seed);
        cuda_shim::set_blocks_at_once(2);
        const OnDevice<std::uint32_t> mark(std::vector<std::uint32_t>{0}), value(1), read(1);
        ASSERT_EQ(launch(2, 1, 0, mark_too_early, mark.data(), value.data(), read.data()), 0);
        too_early += read.values()[0] != 7;
    }
    EXPECT_GT(too_early, 0);
    EXPECT_LT(too_early, 50);
}

__global__ void wait_for_the_other(const std::uint32_t* marks) {
    if (threadIdx.x == 3)
        while (!load_mark(marks + blockIdx.x)) {
        }
    __syncthreads();
}

TEST_F(CudaShim, BlocksThatWaitInACircleAreAnError) {
    for (const Order order : kOrders) {
        cuda_shim::set_order(order);
        cuda_shim::set_blocks_at_once(2);
        const OnDevice<std::uint32_t> marks(std::vector<std::uint32_t>{0, 0, 1, 1});
        ASSERT_EQ(launch(4, 32, 0, wait_for_the_other, static_cast<const std::uint32_t*>(marks.data())), 0);
        const std::string error = error_of([] { cudaDeviceSynchronize(); });
        for (const char* const part :
             {"block (0, 0, 0): thread (3, 0, 0) waits for", "block (1, 0, 0): thread (3, 0, 0)"})
            EXPECT_NE(error.find(part), std::string::npos) << error;
    }
    // More than are there at once: the first waits for one that cannot begin.
    cuda_shim::set_blocks_at_once(1);
    const OnDevice<std::uint32_t> mark(std::vector<std::uint32_t>{0}), sums(3);
    ASSERT_EQ(launch(2, 32, 4, hand_to_and_fro, mark.data(), sums.data(), 2u), 0);
    EXPECT_NE(error_of([] { cudaDeviceSynchronize(); }).find("nobody writes"), std::string::npos);
}

// ---- what would hang ------------------------------------------------------------------------------------------------

__global__ void leave_before_the_barrier() {
    if (threadIdx.x != 5) __syncthreads();
}
__global__ void leave_before_the_shuffle() {
    if (threadIdx.x != 37) __shfl_sync(kAllLanes, 1, 0);
}
__global__ void disagree_on_the_mask() {
    __syncwarp(threadIdx.x == 3 ? 0xffu : kAllLanes);
}
__global__ void name_others() {
    __syncwarp(~(1u << threadIdx.x));
}
__global__ void wait_for_ever(const std::uint32_t* mark) {
    while (!load_mark(mark)) {
    }
}

TEST_F(CudaShim, WhatWouldHangIsAnError) {
    const auto run = [](unsigned threads, void (*kernel)()) {
        return error_of([=] {
            EXPECT_EQ(launch(1, threads, 0, kernel), 0);
            cudaDeviceSynchronize();
        });
    };
    for (const Order order : kOrders) {
        cuda_shim::set_order(order);
        EXPECT_NE(run(64, leave_before_the_barrier).find("thread (5, 0, 0) did not come before it ended"),
                  std::string::npos);
        EXPECT_NE(run(64, leave_before_the_shuffle).find("lane 5 has ended"), std::string::npos);
        EXPECT_NE(run(32, disagree_on_the_mask).find("waits for something else"), std::string::npos);
        EXPECT_NE(run(32, name_others).find("not in itself"), std::string::npos);
        EXPECT_NE(run(20, [] { __syncwarp(); }).find("does not exist"), std::string::npos);
        EXPECT_EQ(run(64, [] { __syncthreads(); }), "") << "the next launch is not hurt";
    }
    const OnDevice<std::uint32_t> mark(std::vector<std::uint32_t>{0});
    ASSERT_EQ(launch(1, 32, 0, wait_for_ever, static_cast<const std::uint32_t*>(mark.data())), 0);
    EXPECT_NE(error_of([] { cudaDeviceSynchronize(); }).find("nobody writes"), std::string::npos);
}

// ---- shared memory and copies to it ---------------------------------------------------------------------------------

__global__ void read_shared(std::uint32_t* out, unsigned write_at) {
    auto* const words = reinterpret_cast<std::uint32_t*>(shared_memory());
    out[threadIdx.x] = words[threadIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) words[write_at] = 1;
}

TEST_F(CudaShim, SharedMemoryIsNobodysAtFirstAndEndsWhereItEnds) {
    const OnDevice<std::uint32_t> out(32);
    ASSERT_EQ(launch(2, 32, 128, read_shared, out.data(), 31u), 0);
    EXPECT_EQ(out.values(), std::vector<std::uint32_t>(32, 0xffffffffu));
    ASSERT_EQ(launch(1, 32, 128, read_shared, out.data(), 32u), 0);
    EXPECT_NE(error_of([] { cudaDeviceSynchronize(); }).find("beyond its shared memory"), std::string::npos);
}

__global__ void copy_through_shared(const uint4* from, uint4* to, bool waits) {
    auto* const kept = reinterpret_cast<uint4*>(shared_memory());
    for (int part = 0; part < 2; ++part) {
        copy_async(&kept[part * 32 + threadIdx.x], &from[part * 32 + threadIdx.x]);
        copy_commit();
    }
    if (waits) copy_wait<1>();
    to[threadIdx.x] = kept[threadIdx.x];
    if (waits) copy_wait<0>();
    to[32 + threadIdx.x] = kept[32 + threadIdx.x];
}

TEST_F(CudaShim, CopiesToSharedMemoryMustBeWaitedFor) {
    std::vector<uint4> sent(64);
    for (unsigned i = 0; i < 64; ++i) sent[i] = {i, i + 1, i + 2, i + 3};
    const auto received = [&](bool waits) {
        const OnDevice<uint4> from(sent), to(64);
        EXPECT_EQ(launch(1, 32, 1024, copy_through_shared, static_cast<const uint4*>(from.data()), to.data(), waits),
                  0);
        return std::memcmp(to.values().data(), sent.data(), 1024) == 0;
    };
    for (const Order order : kOrders) {
        cuda_shim::set_order(order);
        EXPECT_TRUE(received(true));
        EXPECT_EQ(received(false), order == Order::reverse) << "there they are over at once";
    }
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------

TEST_F(CudaShim, HalvesAreRoundedToEven) {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const auto half = static_cast<std::uint16_t>(bits);
        const float value = from_f16(half);
        if ((half & 0x7fff) > 0x7c00) {
            EXPECT_TRUE(std::isnan(value));
            continue;
        }
        EXPECT_EQ(to_f16(value), half);
        if ((half & 0x7fff) >= 0x7bff) continue;
        // Halfway to the next one, and on both sides of it.
        const float next = from_f16(static_cast<std::uint16_t>(half + 1)), middle = value + (next - value) * 0.5f;
        const auto even = static_cast<std::uint16_t>(half + (half & 1));
        EXPECT_EQ(to_f16(middle), even);
        EXPECT_EQ(to_f16(std::nextafter(middle, value)), half);
        EXPECT_EQ(to_f16(std::nextafter(middle, next)), half + 1);
    }
    EXPECT_EQ(from_f16(0x3c00), 1.0f);
    EXPECT_EQ(from_f16(0x0001), 0x1p-24f);
    EXPECT_EQ(to_f16(65519.9f), 0x7bff);
    EXPECT_EQ(to_f16(65520.0f), 0x7c00);
    EXPECT_EQ(to_f16(-1e30f), 0xfc00);
}

__global__ void multiply(const std::int8_t* a, const std::int8_t* b, int* c) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    std::uint32_t left[4], right[2];
    for (unsigned i = 0; i < 4; ++i) std::memcpy(&left[i], a + (g + 8 * (i % 2)) * 32 + 16 * (i / 2) + 4 * t, 4);
    for (unsigned i = 0; i < 2; ++i) std::memcpy(&right[i], b + g * 32 + 16 * i + 4 * t, 4);  // a column of b in a row
    int sum[4];
    for (unsigned i = 0; i < 4; ++i) sum[i] = c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2];
    mma_s8(sum, left, right);
    for (unsigned i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
}

TEST_F(CudaShim, WarpsMultiplyBytes) {
    std::mt19937 random(7);
    std::vector<std::int8_t> a(16 * 32), b(8 * 32);
    std::vector<int> c(16 * 8);
    for (auto* const bytes : {&a, &b})
        for (std::int8_t& byte : *bytes) byte = static_cast<std::int8_t>(random());
    for (int& sum : c) sum = static_cast<int>(random() % 1000);
    std::vector<int> expected = c;
    for (std::size_t row = 0; row < 16; ++row)
        for (std::size_t col = 0; col < 8; ++col)
            for (std::size_t k = 0; k < 32; ++k) expected[row * 8 + col] += a[row * 32 + k] * b[col * 32 + k];
    const OnDevice<std::int8_t> a_there(a), b_there(b);
    const OnDevice<int> c_there(c);
    const std::int8_t *left = a_there.data(), *right = b_there.data();
    ASSERT_EQ(launch(1, 32, 0, multiply, left, right, c_there.data()), 0);
    EXPECT_EQ(c_there.values(), expected);
}

__global__ void multiply_bf16(const std::uint16_t* a, const std::uint16_t* b, float* c) {
    const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;
    std::uint32_t left[4], right[2];
    for (unsigned i = 0; i < 4; ++i) std::memcpy(&left[i], a + (g + 8 * (i % 2)) * 16 + 8 * (i / 2) + 2 * t, 4);
    for (unsigned i = 0; i < 2; ++i) std::memcpy(&right[i], b + g * 16 + 8 * i + 2 * t, 4);
    float sum[4] = {};
    mma_bf16(sum, left, right);
    for (unsigned i = 0; i < 4; ++i) c[(g + 8 * (i / 2)) * 8 + 2 * t + i % 2] = sum[i];
}

TEST_F(CudaShim, WarpsMultiplyBf16) {
    std::vector<std::uint16_t> a(16 * 16), b(8 * 16);
    std::vector<float> expected(16 * 8, 0.0f);
    const auto small = [](std::size_t i) { return static_cast<float>(static_cast<int>(i * 37 % 17) - 8); };
    const auto bits = [](float value) { return static_cast<std::uint16_t>(as_bits(value) >> 16); };
    for (std::size_t i = 0; i < a.size(); ++i) a[i] = bits(small(i));
    for (std::size_t i = 0; i < b.size(); ++i) b[i] = bits(small(i + 5));
    for (std::size_t row = 0; row < 16; ++row)
        for (std::size_t col = 0; col < 8; ++col)
            for (std::size_t k = 0; k < 16; ++k)
                expected[row * 8 + col] += small(row * 16 + k) * small(col * 16 + k + 5);  // whole numbers: exact
    const OnDevice<std::uint16_t> a_there(a), b_there(b);
    const OnDevice<float> c_there(expected.size());
    const std::uint16_t *left = a_there.data(), *right = b_there.data();
    ASSERT_EQ(launch(1, 32, 0, multiply_bf16, left, right, c_there.data()), 0);
    EXPECT_EQ(c_there.values(), expected);
}

TEST_F(CudaShim, DotsOfFourAreSigned) {
    EXPECT_EQ(dot4(0x7f80ff01, 0x7f80ff01, 5), 5 + 127 * 127 + 128 * 128 + 1 + 1);
    EXPECT_EQ(dot4(static_cast<int>(0x80808080), 0x7f7f7f7f, 0), -4 * 128 * 127);
}

// ---- streams --------------------------------------------------------------------------------------------------------

struct TwoStreams : CudaShim {
    void SetUp() override {
        CudaShim::SetUp();
        for (cudaStream_t* const stream : {&one, &two}) cudaStreamCreateWithFlags(stream, cudaStreamNonBlocking);
        cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
        cudaMalloc(&there, sizeof(int));
        cudaMallocHost(&here, 2 * sizeof(int));
        here[0] = 1;
        here[1] = 2;
    }
    void TearDown() override {
        CudaShim::TearDown();
        cudaFree(there);
        cudaFreeHost(here);
        cudaEventDestroy(event);
        for (cudaStream_t const stream : {one, two}) cudaStreamDestroy(stream);
        EXPECT_TRUE(cuda_shim::nothing_left());
    }
    cudaError_t up(cudaStream_t stream) { return cudaMemcpyAsync(there, here, sizeof(int), cudaMemcpyDefault, stream); }
    cudaError_t down(cudaStream_t stream) {
        return cudaMemcpyAsync(here + 1, there, sizeof(int), cudaMemcpyDefault, stream);
    }

    cudaStream_t one = nullptr, two = nullptr;
    cudaEvent_t event = nullptr;
    int *there = nullptr, *here = nullptr;
};

TEST_F(TwoStreams, NothingIsDoneUntilSomebodyWaits) {
    up(one);
    down(one);
    EXPECT_EQ(here[1], 2);
    here[0] = 5;  // too early: it is not there yet
    EXPECT_EQ(cudaStreamSynchronize(two), cudaSuccess);
    EXPECT_EQ(here[1], 2) << "another stream is another matter";
    EXPECT_EQ(cudaStreamSynchronize(one), cudaSuccess);
    EXPECT_EQ(here[1], 5);
}

TEST_F(TwoStreams, AskingRunsOneOperation) {
    up(one);
    down(one);
    cudaEventRecord(event, one);
    EXPECT_EQ(cudaStreamQuery(one), cudaErrorNotReady);
    EXPECT_EQ(here[1], 2);
    EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
    EXPECT_EQ(here[1], 1);
    EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
    EXPECT_EQ(cudaEventQuery(event), cudaSuccess);
    EXPECT_EQ(cudaStreamQuery(one), cudaSuccess);
}

TEST_F(TwoStreams, EventsOrderStreamsAndNothingElseDoes) {
    up(one);
    down(two);
    cudaStreamSynchronize(two);
    EXPECT_EQ(here[1], -1) << "what was there before";
    cudaEventRecord(event, one);
    cudaStreamWaitEvent(two, event);
    down(two);
    cudaStreamSynchronize(two);
    EXPECT_EQ(here[1], 1);
}

TEST_F(TwoStreams, PageableMemoryIsCopiedAtOnce) {
    int sent = 7, received = 0;
    cudaMemcpyAsync(there, &sent, sizeof sent, cudaMemcpyDefault, one);
    sent = 8;
    cudaMemcpyAsync(&received, there, sizeof received, cudaMemcpyDefault, one);
    EXPECT_EQ(received, 7);
}

TEST_F(TwoStreams, TheHostDoesNotReachDeviceMemory) {
    EXPECT_DEATH(*static_cast<volatile int*>(there) = 1, "");
    cudaStreamSynchronize(one);
    EXPECT_DEATH(*static_cast<volatile int*>(there) = 1, "");
}

TEST_F(TwoStreams, WhatFailsLaterBreaksAllThatFollows) {
    cuda_shim::reset({.failed_copy = 2});
    EXPECT_EQ(up(one), cudaSuccess);
    EXPECT_EQ(down(one), cudaSuccess);
    cudaEventRecord(event, one);
    EXPECT_EQ(cudaEventQuery(event), cudaErrorNotReady);
    EXPECT_EQ(cudaEventSynchronize(event), cudaErrorIllegalAddress);
    EXPECT_EQ(cudaStreamSynchronize(two), cudaErrorIllegalAddress);
    EXPECT_EQ(up(two), cudaErrorIllegalAddress);
    EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress);
    EXPECT_EQ(cudaGetLastError(), cudaErrorIllegalAddress) << "it stays";
}

TEST_F(TwoStreams, CopiesOutsideOfTheirMemoryAreRefused) {
    EXPECT_EQ(cudaMemcpyAsync(there, here, 8, cudaMemcpyDefault, one), cudaErrorInvalidValue);
    EXPECT_EQ(cudaMemcpyAsync(there, here, 4, cudaMemcpyDeviceToHost, one), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGetLastError(), cudaErrorInvalidValue);
    EXPECT_EQ(cudaGetLastError(), cudaSuccess);
}

TEST_F(TwoStreams, LaunchesBeyondTheHardwareAreRefused) {
    EXPECT_EQ(launch(1, 1025, 0, leave_before_the_barrier), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch(0, 32, 0, leave_before_the_barrier), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch({1, 65536, 1}, 32, 0, leave_before_the_barrier), cudaErrorInvalidConfiguration);
    EXPECT_EQ(launch(1, 1, 50 << 10, leave_before_the_barrier), cudaErrorInvalidValue) << "unless it is asked for";
    EXPECT_EQ(cudaFuncSetAttribute(leave_before_the_barrier, cudaFuncAttributeMaxDynamicSharedMemorySize, 50 << 10),
              cudaSuccess);
    EXPECT_EQ(launch(1, 1, 50 << 10, leave_before_the_barrier), cudaSuccess);
    EXPECT_EQ(cudaFuncSetAttribute(leave_before_the_barrier, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
              cudaErrorInvalidValue);
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

__global__ void add_to(int* there, int value) {
    *there += value;
}

TEST_F(TwoStreams, GraphsAreReplayed) {
    cudaLaunchConfig_t config{};
    config.gridDim = config.blockDim = 1;
    cudaStreamBeginCapture(one, cudaStreamCaptureModeThreadLocal);
    up(one);
    EXPECT_EQ(cudaStreamSynchronize(one), cudaErrorStreamCaptureUnsupported);
    int* unwanted = nullptr;
    EXPECT_EQ(cudaMalloc(&unwanted, 4), cudaErrorStreamCaptureUnsupported);
    cudaEventRecord(event, one);
    cudaStreamWaitEvent(two, event);
    config.stream = two;
    cudaLaunchKernelEx(&config, add_to, there, 10);
    cudaEventRecord(event, two);
    cudaStreamWaitEvent(one, event);
    down(one);
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(cudaStreamEndCapture(one, &graph), cudaSuccess);
    cudaGraphExec_t ready = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&ready, graph), cudaSuccess);
    cudaGraphDestroy(graph);
    cudaStreamSynchronize(one);
    EXPECT_EQ(here[1], 2) << "noted down, not done";
    for (const int sent : {3, 4}) {
        here[0] = sent;
        cudaGraphLaunch(ready, one);
        EXPECT_NE(here[1], sent + 10);
        cudaStreamSynchronize(one);
        EXPECT_EQ(here[1], sent + 10);
    }
    cudaGraphExecDestroy(ready);
}

}  // namespace
}  // namespace moestro::kernels::cuda
