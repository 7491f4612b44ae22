// A whole decoder on a CUDA device, or only its experts: the same bits as on the processor, wherever weights are.
#include <gtest/gtest.h>

#include <string>

#include "layers/small_decoder.h"

namespace moestro::layers {
namespace {

using testing::expect_same_bits;
using testing::normal_floats;
using testing::SmallDecoder;

using D = SmallDecoder;

constexpr std::size_t kWork = std::size_t{4} << 20;

std::vector<std::vector<float>> run(SmallDecoder& model) {
    std::vector<std::vector<float>> all;
    unsigned seed = 50;
    for (const int rows : {33, 1, 1, 4, 2}) {
        const std::vector<float> x = normal_floats(static_cast<std::size_t>(rows * D::kHidden), ++seed);
        std::vector<std::int64_t> chosen(static_cast<std::size_t>(rows));
        std::iota(chosen.begin(), chosen.end(), 0);
        std::vector<float>& logits = all.emplace_back(static_cast<std::size_t>(rows * D::kVocab));
        model.step(x.data(), rows, chosen, logits.data());
        model.runtime.check_integrity();
    }
    return all;
}

// experts: bytes of device memory for them.
engine::RuntimeOptions on_cuda(bool trunk, std::size_t experts, const std::string& schedule) {
    engine::RuntimeOptions options;
    options.cuda = engine::CudaMachine{0, trunk, kWork};
    options.device_memory = kWork + (trunk ? D::kArraysThere : 0) + experts;
    options.schedule = schedule;
    return options;
}

class OnCuda : public ::testing::TestWithParam<quant::Format> {};

TEST_P(OnCuda, PlacementChangesNoBit) {
    SmallDecoder processor(GetParam());
    const std::vector<std::vector<float>> expected = run(processor);
    for (const bool trunk : {false, true})
        for (const char* const schedule : {"hybrid", "on_demand", "static", "cpu"})
            for (const int slots : {3, D::kExperts}) {
                SCOPED_TRACE(std::string(trunk ? "trunk and experts, " : "experts, ") + schedule + ", " +
                             std::to_string(slots) + " slots");
                const std::size_t experts = static_cast<std::size_t>(slots) * processor.runtime.record_sizes().front();
                SmallDecoder device(GetParam(), 2, on_cuda(trunk, experts, schedule));
                const std::vector<std::vector<float>> found = run(device);
                for (std::size_t step = 0; step < expected.size(); ++step) {
                    SCOPED_TRACE("step " + std::to_string(step));
                    expect_same_bits(found[step], expected[step]);
                }
                const bool decides = std::string(schedule) == "hybrid";  // and may leave all to the processor
                EXPECT_TRUE(decides || (device.runtime.counters().on_device > 0) == (std::string(schedule) != "cpu"));
                EXPECT_LE(device.runtime.residency().device_slots, slots);
                EXPECT_LE(device.runtime.residency().device_peak, experts + (trunk ? D::kArraysThere : 0));
            }
}

INSTANTIATE_TEST_SUITE_P(Formats, OnCuda,
                         ::testing::Values(quant::Format::f32, quant::Format::bf16, quant::Format::q8,
                                           quant::Format::q4),
                         [](const auto& info) { return std::string(quant::name(info.param)); });

}  // namespace
}  // namespace moestro::layers
