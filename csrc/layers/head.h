// The end of a decoder: the last norm and the output head.
#pragma once

#include <span>
#include <vector>

#include "layers/norm.h"
#include "layers/workspace.h"

namespace moestro::layers {

// Constants, borrowed. The head comes in row slices of one [vocab, hidden] matrix, so that no slice needs the memory of
// the whole.
struct Head {
    Norm norm;
    std::vector<const kernels::Matrix*> slices;  // consecutive rows
    float multiplier = 1;                        // of logits
    float softcap = 0;                           // c: a logit l becomes c * tanh(l / c); 0: it stays

    int vocab() const;
    // logits [chosen.size(), vocab] of norm(work.x) in the chosen rows, in their order. Throws Error(usage) for a row
    // outside the step, more rows than the workspace has, or a workspace of another shape; Error(numeric).
    void run(kernels::Compute& compute, Workspace& work, std::span<const std::int64_t> chosen, float* logits) const;
};

}  // namespace moestro::layers
