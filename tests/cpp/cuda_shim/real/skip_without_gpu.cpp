// Tests on a real GPU are skipped where there is none.
#include <gtest/gtest.h>

#include "device/cuda.h"

namespace moestro::device {
namespace {

class NeedsGpu : public ::testing::Environment {
  public:
    void SetUp() override {
        if (const std::string missing = cuda_info().missing; !missing.empty()) GTEST_SKIP() << missing;
    }
};

[[maybe_unused]] ::testing::Environment* const needs_gpu = ::testing::AddGlobalTestEnvironment(new NeedsGpu);

}  // namespace
}  // namespace moestro::device
