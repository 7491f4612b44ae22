#include "layers/head.h"

#include <algorithm>

#include "base/error.h"
#include "kernels/accelerator.h"
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
    for (std::size_t i = 0; i < chosen.size();) {
        std::size_t end = i;  // of rows in a row
        for (; end < chosen.size() && chosen[end] == chosen[i] + static_cast<std::int64_t>(end - i); ++end)
            require(chosen[end] >= 0 && chosen[end] < work.rows(), ErrorKind::usage, "logits of row ", chosen[end],
                    " of ", work.rows(), " were asked for");
        kernels::copy_rows(compute, work.arrays().x + chosen[i] * hidden, hidden,
                           normed + static_cast<std::int64_t>(i) * hidden, hidden, static_cast<std::int64_t>(end - i),
                           hidden);
        i = end;
    }
    norm.run(compute, normed, rows, hidden, normed);
    std::vector<kernels::LinearJob>& jobs = work.scratch.head;
    jobs.clear();
    const std::int64_t count = std::int64_t{rows} * width;
    float* const made = compute.accelerator() ? work.logits_there(count) : logits;
    float* at = made;
    for (const kernels::Matrix* slice : slices) {
        jobs.push_back({*slice, at, width});
        at += slice->spec.rows;
    }
    linear(compute, work, normed, rows, jobs);
    if (multiplier != 1) kernels::scale(compute, made, multiplier, count);
    if (softcap > 0) kernels::softcap(compute, made, softcap, count);
    if (!compute.accelerator()) return;
    compute.accelerator()->get(logits, made, static_cast<std::size_t>(count) * sizeof(float));
    compute.accelerator()->settle();
}

}  // namespace moestro::layers
