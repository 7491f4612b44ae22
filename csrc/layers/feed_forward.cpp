#include "layers/feed_forward.h"

#include <array>
#include <utility>

#include "base/error.h"
#include "layers/linear.h"

namespace moestro::layers {

namespace {

void require_hidden(const Workspace& work, int hidden, int layer) {
    require(work.shape().hidden == hidden, ErrorKind::usage, "this workspace is for hidden ", work.shape().hidden,
            ", not ", hidden, " as layer ", layer, " has");
}

void add_branch(kernels::Compute& compute, Workspace& work) {
    const std::int64_t count = std::int64_t{work.rows()} * work.shape().hidden;
    kernels::add(compute, work.arrays().x, work.arrays().branch, count);
}

}  // namespace

void Mlp::run(kernels::Compute& compute, Workspace& work) const {
    const Workspace::Use use(work, Activity::mlp, layer);
    const WorkArrays& at = work.arrays();
    const int rows = work.rows(), hidden = gate->spec.cols;
    require_hidden(work, hidden, layer);
    for (const kernels::Matrix* weight : {gate, up, down}) require_held(*weight);
    norm.run(compute, at.x, rows, hidden, at.normed);
    const bool integer = quant::is_integer(gate->spec.format) || quant::is_integer(up->spec.format);
    work.scratch.activations.prepare(compute, at.normed, rows, hidden, integer);
    const kernels::ExpertJob job{{*gate, *up, *down}, {at.every_row, static_cast<std::size_t>(rows)}, at.branch};
    kernels::experts(compute, work.scratch.activations, {&job, 1}, work.scratch.mlp);
    add_branch(compute, work);
}

void Moe::submit(engine::Runtime& runtime, Workspace& work) const {
    const Workspace::Use use(work, Activity::route, layer);
    kernels::Compute& compute = *runtime.compute();
    const WorkArrays& at = work.arrays();
    const int rows = work.rows(), experts = router->spec.rows;
    require_hidden(work, router->spec.cols, layer);
    require_hidden(work, runtime.hidden(layer), layer);
    require(experts <= work.shape().experts && top_k <= work.shape().top_k, ErrorKind::usage, "this workspace is for ",
            work.shape().experts, " experts and top_k ", work.shape().top_k, ", not ", experts, " and ", top_k,
            " as layer ", layer, " has");
    norm.run(compute, at.x, rows, work.shape().hidden, at.normed);
    linear(compute, work, at.normed, rows, std::array{dense(*router, at.logits)});
    kernels::route_softmax_topk(compute, at.logits, rows, experts, top_k, normalise, at.ids, at.weights,
                                work.scratch.router);
    work.routed = top_k;
    work.experts = runtime.submit_experts(layer, at.normed, rows, at.ids, at.weights, top_k);
}

void Moe::wait(engine::Runtime& runtime, Workspace& work) const {
    const Workspace::Use use(work);  // the runtime records what it computes and waits for
    engine::Ticket ticket = std::move(work.experts);
    runtime.wait(ticket, work.arrays().branch);
    add_branch(*runtime.compute(), work);
}

}  // namespace moestro::layers
