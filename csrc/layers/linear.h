// Linears of a layer, through the workspace's scratch.
#pragma once

#include <span>

#include "layers/workspace.h"

namespace moestro::layers {

// Into an array that is as wide as the weight has rows.
inline kernels::LinearJob dense(const kernels::Matrix& weight, float* y) {
    return {weight, y, weight.spec.rows};
}

// A weight that is streamed is in memory only while its unit is held. Throws Error(usage) when it is not.
void require_held(const kernels::Matrix& weight);

// Runs the jobs, at least one, on x [rows, their weights' columns] in one dispatch.
void linear(kernels::Compute& compute, Workspace& work, const float* x, int rows,
            std::span<const kernels::LinearJob> jobs);

}  // namespace moestro::layers
