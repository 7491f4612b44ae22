#include "layers/linear.h"

#include <algorithm>

#include "base/error.h"

namespace moestro::layers {

void require_held(const kernels::Matrix& weight) {
    require(weight.data != nullptr, ErrorKind::usage, "a streamed weight [", weight.spec.rows, ", ", weight.spec.cols,
            "] is not in memory: hold its unit while it is used");
}

void linear(kernels::Compute& compute, Workspace& work, const float* x, int rows,
            std::span<const kernels::LinearJob> jobs) {
    for (const kernels::LinearJob& job : jobs) require_held(job.weight);
    const bool integer = std::ranges::any_of(
        jobs, [](const kernels::LinearJob& job) { return quant::is_integer(job.weight.spec.format); });
    kernels::Activations& activations = work.scratch.activations;
    activations.prepare(compute, x, rows, jobs[0].weight.spec.cols, integer);
    kernels::linear(compute, activations, jobs);
}

}  // namespace moestro::layers
