#include "layers/linear.h"

#include <algorithm>

namespace moestro::layers {

void linear(kernels::Compute& compute, Workspace& work, const float* x, int rows,
            std::span<const kernels::LinearJob> jobs) {
    const bool integer = std::ranges::any_of(
        jobs, [](const kernels::LinearJob& job) { return quant::is_integer(job.weight.spec.format); });
    kernels::Activations& activations = work.scratch.activations;
    activations.prepare(compute, x, rows, jobs[0].weight.spec.cols, integer);
    kernels::linear(compute, activations, jobs);
}

}  // namespace moestro::layers
