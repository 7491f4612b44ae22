// Once warm, a step takes nothing from the heap. Every operator new of this binary is counted.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "layers/small_decoder.h"

namespace {

std::atomic<std::int64_t> allocations{0};

void* counted(std::size_t bytes, std::size_t alignment) {
    ++allocations;
    const std::size_t size = (bytes + alignment - 1) / alignment * alignment;
    if (void* memory = std::aligned_alloc(alignment, size ? size : alignment)) return memory;
    throw std::bad_alloc();
}

}  // namespace

void* operator new(std::size_t bytes) {
    return counted(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
    return counted(bytes, static_cast<std::size_t>(alignment));
}
// What new above gave comes from malloc; inlined into each other, the compiler takes that for a mismatch.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
void operator delete(void* memory) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
    std::free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
    std::free(memory);
}
#pragma GCC diagnostic pop

namespace moestro::layers {
namespace {

using testing::SmallDecoder;

TEST(Allocation, TheCountSeesWhatIsAllocated) {
    const std::int64_t before = allocations;
    ::operator delete(::operator new(3));  // not an expression that the compiler may leave out
    EXPECT_EQ(allocations, before + 1);
}

TEST(Allocation, AWarmStepAllocatesNothing) {
    for (const auto format : {quant::Format::bf16, quant::Format::q8, quant::Format::q4})
        for (const int threads : {1, 2}) {
            SmallDecoder model(format, threads);
            const std::vector<float> x = testing::normal_floats(33 * SmallDecoder::kHidden, 1);
            std::vector<float> logits(33 * SmallDecoder::kVocab);
            const std::vector<std::int64_t> last{0};
            // Long enough to reach every expert, and the segments and slots that decoding will use.
            model.step(x.data(), 33, last, logits.data());
            for (int row = 0; row < 33; ++row)
                model.step(x.data() + row * SmallDecoder::kHidden, 1, last, logits.data());
            const std::uint64_t misses = model.runtime.counters().misses;
            const std::int64_t before = allocations;
            for (int row = 0; row < 33; ++row)
                model.step(x.data() + row * SmallDecoder::kHidden, 1, last, logits.data());
            EXPECT_EQ(allocations, before) << quant::name(format) << ", threads " << threads;
            EXPECT_EQ(model.runtime.counters().misses, misses) << "the experts were not resident";
        }
}

}  // namespace
}  // namespace moestro::layers
