#include "layers/head.h"

#include <algorithm>

#include "base/error.h"
#include "layers/linear.h"

namespace moestro::layers {

int Head::vocab() const {
    int rows = 0;
    for (const kernels::Matrix* slice : slices) rows += slice->spec.rows;
    return rows;
}

void Head::run(kernels::Compute& compute, Workspace& work, std::span<const std::int64_t> chosen, float* logits) const {
    const Workspace::Use use(work, Activity::head);
    const int hidden = work.shape().hidden, rows = static_cast<int>(chosen.size()), width = vocab();
    require(chosen.size() <= static_cast<std::size_t>(work.max_rows()), ErrorKind::usage, "logits of at most ",
            work.max_rows(), " rows can be asked for; got ", chosen.size());
    require(slices[0]->spec.cols == hidden, ErrorKind::usage, "this workspace is for hidden ", hidden, ", not ",
            slices[0]->spec.cols, " as the head has");
    if (rows == 0) return;
    float* normed = work.arrays().normed;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
        require(chosen[i] >= 0 && chosen[i] < work.rows(), ErrorKind::usage, "logits of row ", chosen[i], " of ",
                work.rows(), " were asked for");
        std::copy_n(work.arrays().x + chosen[i] * hidden, hidden, normed + static_cast<std::int64_t>(i) * hidden);
    }
    norm.run(compute, normed, rows, hidden, normed);
    std::vector<kernels::LinearJob>& jobs = work.scratch.head;
    jobs.clear();
    float* at = logits;
    for (const kernels::Matrix* slice : slices) {
        jobs.push_back({*slice, at, width});
        at += slice->spec.rows;
    }
    linear(compute, work, normed, rows, jobs);
    if (multiplier != 1) kernels::scale(compute, logits, multiplier, std::int64_t{rows} * width);
    if (softcap > 0) kernels::softcap(compute, logits, softcap, std::int64_t{rows} * width);
}

}  // namespace moestro::layers
