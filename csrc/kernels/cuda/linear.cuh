// Linears grouped into launches.
#pragma once

#include <vector>

#include "kernels/cuda/launching.cuh"
#include "kernels/cuda/panels.cuh"

namespace moestro::kernels::cuda {

using Jobs = std::vector<Job>;

// Any formats, any numbers of rows.
Status launch_jobs(const Input& input, const Jobs& jobs, Courier& courier, Stream stream);
// Jobs of one format with more than a few rows each.
Status launch_many(Format format, const Input& input, const Jobs& jobs, Courier& courier, Stream stream);

// Blocks shared out over jobs, one run of blocks for each.
class Runs {
  public:
    // blocks(job): how many the job takes.
    template <class Blocks>
    Runs(const Jobs& jobs, const Blocks& blocks) : jobs_(jobs) {
        for (const Job& job : jobs) begins_.push_back(begins_.back() + static_cast<std::int32_t>(blocks(job)));
    }

    // The kernel takes an Input, the jobs, where their runs begin, their number, and `last`.
    template <class Kernel, class... Last>
    Status launch(Kernel* kernel, int threads, std::size_t shared, Courier& courier, Stream stream, const Input& input,
                  Last... last) const {
        const void* const jobs = courier.send(jobs_.data(), jobs_.size() * sizeof(Job), stream);
        const void* const begins = courier.send(begins_.data(), begins_.size() * sizeof(std::int32_t), stream);
        if (!jobs || !begins) return cudaErrorMemoryAllocation;
        return cuda::launch(kernel, dim3(static_cast<unsigned>(begins_.back())), dim3(static_cast<unsigned>(threads)),
                            shared, stream, input, static_cast<const Job*>(jobs),
                            static_cast<const std::int32_t*>(begins), static_cast<int>(jobs_.size()), last...);
    }

  private:
    const Jobs& jobs_;
    std::vector<std::int32_t> begins_{0};
};

}  // namespace moestro::kernels::cuda
