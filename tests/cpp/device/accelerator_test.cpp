// What an accelerator promises besides the bits of its operations: order, memory, faults, and calls that are repeated.
#include "kernels/accelerator.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "base/error.h"
#include "cuda_shim/shim.h"
#include "device/cuda.h"
#include "kernels/matrices.h"

namespace moestro::device {
namespace {

using kernels::Accelerator;
using kernels::Repeating;
using testing::normal_floats;

constexpr std::size_t kMiB = std::size_t{1} << 20;

class AnAccelerator : public ::testing::Test {
  protected:
    void SetUp() override {
        cuda_shim::reset();
        device_ = make_cuda({.memory = 4 * kMiB, .work = 4 * kMiB});
        there_ = device_->make_accelerator();
    }
    void TearDown() override {
        there_.reset();
        device_.reset();
        EXPECT_TRUE(cuda_shim::nothing_left());
    }

    std::shared_ptr<float> put(const std::vector<float>& values) {
        auto memory = there_->allocate(values.size() * sizeof(float));
        there_->put(memory.get(), values.data(), values.size() * sizeof(float));
        return {memory, reinterpret_cast<float*>(memory.get())};
    }
    std::vector<float> get(const std::shared_ptr<float>& memory, std::size_t count) {
        std::vector<float> values(count);
        there_->get(values.data(), memory.get(), count * sizeof(float));
        there_->settle();
        return values;
    }

    std::shared_ptr<Device> device_;
    std::shared_ptr<Accelerator> there_;
};

TEST_F(AnAccelerator, TakesWhatChangesRightAfter) {
    for (const std::size_t count : {std::size_t{3}, std::size_t{1} << 16}) {  // small, and more than is sent along
        std::vector<float> values(count, 2);
        const auto memory = put(values);
        std::fill(values.begin(), values.end(), 7.0f);
        EXPECT_EQ(get(memory, count), std::vector<float>(count, 2));
    }
    const auto pinned = there_->allocate_host(kMiB);
    ASSERT_TRUE(there_->reachable(pinned.get()));
    std::memset(pinned.get(), 0, kMiB);
    const auto memory = there_->allocate(kMiB);
    there_->put(memory.get(), pinned.get(), kMiB);
    std::memset(pinned.get(), 1, kMiB);
    EXPECT_EQ(get({memory, reinterpret_cast<float*>(memory.get())}, 4), std::vector<float>(4, 0));
}

TEST_F(AnAccelerator, CopiesRowsThatLieApart) {
    const auto from = put({1, 2, 3, 4, 5, 6}), to = put(std::vector<float>(8, 0));
    there_->copy_rows(to.get() + 1, 4 * sizeof(float), from.get(), 3 * sizeof(float), 2, 2 * sizeof(float));
    EXPECT_EQ(get(to, 8), (std::vector<float>{0, 1, 2, 0, 0, 4, 5, 0}));
    there_->zero(to.get(), 2 * sizeof(float));
    EXPECT_EQ(get(to, 3), (std::vector<float>{0, 0, 2}));
}

TEST_F(AnAccelerator, KeepsMemoryUntilItsWorkIsDone) {
    const auto sum = put({0, 0});
    for (int turn = 0; turn < 4; ++turn) there_->add(sum.get(), put({1, 2}).get(), 2);  // gone before it ran
    EXPECT_EQ(get(sum, 2), (std::vector<float>{4, 8}));
}

TEST_F(AnAccelerator, SaysWhatWasNotFiniteAndGoesOn) {
    const auto weight = put({1, 1}), y = put({0, 0});
    there_->rms_norm(put({std::numeric_limits<float>::infinity(), 1}).get(), weight.get(), 1e-5f, 1, 2, y.get());
    try {
        there_->settle();
        ADD_FAILURE() << "an infinite sum of squares passed";
    } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::numeric);
        EXPECT_NE(std::string(error.what()).find("norm"), std::string::npos) << error.what();
    }
    there_->settle();
    there_->rms_norm(put({3, 4}).get(), weight.get(), 0, 1, 2, y.get());
    EXPECT_NEAR(get(y, 2)[0], 3 / 3.5355339f, 1e-6);
}

// One step of something that repeats: x += y, then x *= 2.
void step(Accelerator& there, const std::shared_ptr<float>& x, const std::shared_ptr<float>& y,
          std::int64_t reach = 0) {
    const Repeating repeating(&there, {&there, x.get(), 1, reach});
    if (repeating.done()) return;
    there.add(x.get(), y.get(), 1);
    there.scale(x.get(), 2, 1);
}

TEST_F(AnAccelerator, RepeatsTheSameCalls) {
    const auto x = put({1}), y = put({1});
    float expected = 1;
    for (int turn = 0; turn < 6; ++turn) {
        step(*there_, x, y);
        expected = (expected + 1) * 2;
        EXPECT_EQ(get(x, 1)[0], expected) << "turn " << turn;
    }
    const float five = 5;
    there_->put(y.get(), &five, sizeof five);  // memory may hold something else
    step(*there_, x, y);
    EXPECT_EQ(get(x, 1)[0], (expected + 5) * 2);
    EXPECT_TRUE(there_->repeat({there_.get(), x.get(), 1, 0})) << "it is recorded";
    EXPECT_FALSE(there_->repeat({there_.get(), x.get(), 1, 1})) << "with another reach it is not";
    there_->end_repeat(true);
    EXPECT_FALSE(there_->repeat({there_.get(), x.get(), 1, 0})) << "and only one of them is kept";
    there_->end_repeat(true);
}

TEST_F(AnAccelerator, RecordsNothingOfCallsThatFailed) {
    const auto x = put({1}), y = put({1});
    step(*there_, x, y);
    EXPECT_EQ(get(x, 1)[0], 4);
    EXPECT_THROW(
        {
            const Repeating repeating(there_.get(), {there_.get(), x.get(), 1, 0});
            there_->add(x.get(), y.get(), 1);
            fail(ErrorKind::usage, "in the middle");
        },
        Error);
    EXPECT_EQ(get(x, 1)[0], 4) << "what was being recorded was not done";
    for (int turn = 0; turn < 3; ++turn) step(*there_, x, y);
    EXPECT_EQ(get(x, 1)[0], ((((4 + 1) * 2) + 1) * 2 + 1) * 2);
}

// What grows gives up memory that recordings may have used.
TEST_F(AnAccelerator, ForgetsRecordingsWhenScratchGrows) {
    const auto small = testing::random_matrix(16, 64, quant::Format::q8, quant::ScaleType::f32, 1);
    const auto weight = there_->allocate(small.matrix.spec.bytes());
    there_->put(weight.get(), small.matrix.data, small.matrix.spec.bytes());
    const kernels::Matrix matrix{weight.get(), small.matrix.spec, nullptr};
    const std::vector<float> values = normal_floats(40 * 64, 2);
    const auto x = put(values), y = put(std::vector<float>(40 * 16, 0));
    kernels::Compute compute(*std::make_unique<kernels::Compute>(1, kernels::choose_isa("scalar")), there_);
    const auto run = [&](int rows, const std::shared_ptr<float>& to) {
        const Repeating repeating(there_.get(), {&matrix, to.get(), rows, 0});
        if (repeating.done()) return;
        kernels::Activations activations;
        activations.prepare(compute, x.get(), rows, 64, true);
        const kernels::LinearJob job{matrix, to.get(), 16};
        kernels::linear(compute, activations, {&job, 1});
    };
    run(1, y);
    const std::vector<float> expected = get(y, 16);
    for (int turn = 0; turn < 3; ++turn) run(1, y);
    const auto many = put(std::vector<float>(40 * 16, 0));
    run(40, many);  // scratch is another piece of memory from here on
    there_->zero(y.get(), 16 * sizeof(float));
    for (int turn = 0; turn < 3; ++turn) {
        run(1, y);
        testing::expect_same_bits(get(y, 16), expected);
    }
}

}  // namespace
}  // namespace moestro::device
