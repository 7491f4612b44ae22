// How a half of a decoder layer stands to the residual stream: what it reads of it and how its output is added.
#pragma once

#include "layers/norm.h"
#include "layers/workspace.h"

namespace moestro::layers {

// Norms may be empty. The wirings of families: norm before ("pre"), before and after ("sandwich"), after ("post"), or
// one before both halves, the second of which reads what the first one read ("parallel").
struct Branch {
    Norm before, after;
    bool reads_last = false;  // what the half before this one read, not what the stream holds by now
    float residual = 1;       // multiplies what is added

    // Where what the half reads is, [rows, hidden], once input() was called.
    const float* reads(const Workspace& work) const {
        return reads_last || before ? work.arrays().normed : work.arrays().x;
    }
    const float* input(kernels::Compute& compute, const Workspace& work) const {
        const WorkArrays& at = work.arrays();
        if (before && !reads_last) before.run(compute, at.x, work.rows(), work.shape().hidden, at.normed);
        return reads(work);
    }

    // x += what the half left in work.branch.
    void add(kernels::Compute& compute, const Workspace& work) const {
        const WorkArrays& at = work.arrays();
        const std::int64_t count = std::int64_t{work.rows()} * work.shape().hidden;
        if (after) after.run(compute, at.branch, work.rows(), work.shape().hidden, at.branch);
        if (residual == 1)
            kernels::add(compute, at.x, at.branch, count);
        else
            kernels::add_scaled(compute, at.x, residual, at.branch, count);
    }
};

}  // namespace moestro::layers
