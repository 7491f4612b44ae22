// A norm with its weights bound.
#pragma once

#include "kernels/ops.h"

namespace moestro::layers {

struct Norm {
    enum class Kind : std::uint8_t { rms, layer };

    const float* weight = nullptr;  // [n], borrowed; null where a model has no such norm
    float eps = 0;
    Kind kind = Kind::rms;
    const float* bias = nullptr;  // [n], of a layer norm; may be null

    explicit operator bool() const { return weight != nullptr; }

    // y [rows, n] = norm of x; y may be x.
    void run(kernels::Compute& compute, const float* x, int rows, int n, float* y) const {
        if (kind == Kind::layer)
            kernels::layer_norm(compute, x, weight, bias, eps, rows, n, y);
        else
            kernels::rms_norm(compute, x, weight, eps, rows, n, y);
    }
};

}  // namespace moestro::layers
