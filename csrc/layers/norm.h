// RMS norm with its weight bound.
#pragma once

#include "kernels/ops.h"

namespace moestro::layers {

struct Norm {
    const float* weight = nullptr;  // [n], borrowed; null where a model has no such norm
    float eps = 0;

    // y [rows, n] = norm of x; y may be x.
    void run(kernels::Compute& compute, const float* x, int rows, int n, float* y) const {
        kernels::rms_norm(compute, x, weight, eps, rows, n, y);
    }
};

}  // namespace moestro::layers
