#include "layers/feed_forward.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "base/error.h"
#include "kernels/accelerator.h"
#include "layers/linear.h"

namespace moestro::layers {

namespace {

void require_hidden(const Workspace& work, int hidden, int layer) {
    require(work.shape().hidden == hidden, ErrorKind::usage, "this workspace is for hidden ", work.shape().hidden,
            ", not ", hidden, " as layer ", layer, " has");
}

// y = mlp(x) for every row.
void gated_mlp(kernels::Compute& compute, Workspace& work, const kernels::Mlp& mlp, const float* x, float* y) {
    for (const kernels::Matrix* weight : {&mlp.gate, &mlp.up, &mlp.down}) require_held(*weight);
    const int rows = work.rows();
    const bool integer = quant::is_integer(mlp.gate.spec.format) || quant::is_integer(mlp.up.spec.format);
    work.scratch.activations.prepare(compute, x, rows, mlp.gate.spec.cols, integer);
    const kernels::ExpertJob job{mlp, {work.host().every_row, static_cast<std::size_t>(rows)}, y};
    kernels::experts(compute, work.scratch.activations, {&job, 1}, work.scratch.mlp);
}

}  // namespace

void Mlp::run(kernels::Compute& compute, Workspace& work) const {
    const Workspace::Use use(work, Activity::mlp, layer);
    require_hidden(work, gate->spec.cols, layer);
    const kernels::Repeating repeating(compute.accelerator(), {this, work.arrays().x, work.rows(), 0});
    if (repeating.done()) return;
    gated_mlp(compute, work, {*gate, *up, *down, kind}, branch.input(compute, work), work.arrays().branch);
    branch.add(compute, work);
}

void Moe::submit(engine::Runtime& runtime, Workspace& work) const {
    const Workspace::Use use(work, Activity::route, layer);
    kernels::Compute& compute = *runtime.compute();
    const WorkArrays& at = work.arrays();
    const int rows = work.rows(), top_k = rule.top_k;
    require_room(work);
    require_hidden(work, runtime.hidden(layer), layer);
    const float* const x = branch.reads(work);
    const float* const logits = pre_gated ? at.handed : at.logits;
    const float* const read = weigh_input ? at.weighed : x;
    {
        const kernels::Repeating repeating(compute.accelerator(), {this, at.x, rows, 0});
        if (!repeating.done()) choose(compute, work);
    }
    work.settle();
    work.routed = top_k;
    const HostArrays& host = work.host();
    if (weigh_input) std::fill_n(host.weights, rows, 1.0f);
    const bool there = compute.accelerator() != nullptr;
    work.experts = runtime.submit_experts(layer, there ? host.read : read, rows, host.ids, host.weights, top_k,
                                          there ? host.logits : logits, there ? read : nullptr);
    hand_on(compute, work, x);
    look_ahead(runtime, work, x);
    if (shared_gate) run_shared(compute, work, x);
}

// Routes norm(work.x), and fetches what the processor must know of that.
void Moe::choose(kernels::Compute& compute, Workspace& work) const {
    const WorkArrays& at = work.arrays();
    const int rows = work.rows(), experts = router->spec.rows, hidden = router->spec.cols;
    const float* const x = branch.input(compute, work);
    const float* const logits = pre_gated ? at.handed : at.logits;
    if (!pre_gated) linear(compute, work, x, rows, std::array{dense(*router, at.logits)});
    kernels::RouterRule chosen_by = rule;
    if (correction_there) chosen_by.correction = correction_there;
    kernels::route(compute, chosen_by, logits, rows, experts, at.ids, at.weights, work.scratch.router);
    if (weigh_input) {
        kernels::copy_rows(compute, x, hidden, at.weighed, hidden, rows, hidden);
        kernels::scale_rows(compute, at.weighed, at.weights, rows, hidden);
    }
    work.get_routed(weigh_input ? at.weighed : x, logits, experts, rule.top_k);
}

void Moe::require_room(const Workspace& work) const {
    const WorkShape& shape = work.shape();
    require_hidden(work, router->spec.cols, layer);
    require(router->spec.rows <= shape.experts && rule.top_k <= shape.top_k && (shape.shared || !shared_gate) &&
                (shape.weighed || !weigh_input),
            ErrorKind::usage, "this workspace is for ", shape.experts, " experts and top_k ", shape.top_k, ", not ",
            router->spec.rows, " and ", rule.top_k, " as layer ", layer, " has, or not for shared or weighed experts");
    const bool hands_on = !next.empty() && next.front().pre_gated;
    require((shape.pre_gated || !hands_on) && (!hands_on || next.front().router->spec.rows <= shape.experts),
            ErrorKind::usage, "this workspace has no room for the logits that layer ", layer, " hands on");
    require(!pre_gated || work.handed_layer == layer, ErrorKind::usage, "layer ", layer,
            " is pre-gated, and the layer before it handed no logits on");
}

// Computed whether anybody looks ahead or not: the next layer routes by them.
void Moe::hand_on(kernels::Compute& compute, Workspace& work, const float* x) const {
    work.handed_layer = -1;
    if (next.empty() || !next.front().pre_gated) return;
    linear(compute, work, x, work.rows(), std::array{dense(*next.front().router, work.arrays().handed)});
    work.handed_layer = next.front().layer;
}

void Moe::look_ahead(engine::Runtime& runtime, Workspace& work, const float* x) const {
    kernels::Compute& compute = *runtime.compute();
    const WorkArrays& at = work.arrays();
    const std::size_t wanted = std::min(next.size(), static_cast<std::size_t>(runtime.lookahead()));
    for (const Next& one : std::span(next).first(wanted)) {
        if (one.pre_gated && one.layer != work.handed_layer) break;  // what its router will read is not there yet
        if (!one.pre_gated) linear(compute, work, x, work.rows(), std::array{dense(*one.router, at.logits)});
        // A copy: the runtime may change what it is given.
        const int experts = one.router->spec.rows;
        if (one.pre_gated) kernels::copy_rows(compute, at.handed, experts, at.logits, experts, work.rows(), experts);
        const HostArrays& host = work.host();
        const auto choose = [&](const float* logits) {
            kernels::route(*runtime.processor(), one.rule, logits, work.rows(), experts, host.next_ids, host.weights,
                           work.scratch.router);
            return host.next_ids;
        };
        runtime.foresee(layer, one.layer, work.fetch_logits(at.logits, experts), work.rows(), one.rule.top_k, choose);
    }
    runtime.advise(layer);
}

void Moe::run_shared(kernels::Compute& compute, Workspace& work, const float* x) const {
    const WorkArrays& at = work.arrays();
    gated_mlp(compute, work, {*shared_gate, *shared_up, *shared_down, kind}, x, at.shared);
    if (!shared_weight) return;
    linear(compute, work, x, work.rows(), std::array{dense(*shared_weight, at.shared_logits)});
    kernels::scale_rows_by_sigmoid(compute, at.shared, at.shared_logits, work.rows(), work.shape().hidden);
}

void Moe::wait(engine::Runtime& runtime, Workspace& work) const {
    const Workspace::Use use(work);  // the runtime records what it computes and waits for
    kernels::Compute& compute = *runtime.compute();
    const WorkArrays& at = work.arrays();
    const std::int64_t count = std::int64_t{work.rows()} * work.shape().hidden;
    engine::Ticket ticket = std::move(work.experts);
    runtime.wait(ticket, at.branch);
    if (shared_gate) kernels::add(compute, at.branch, at.shared, count);
    if (average) kernels::scale(compute, at.branch, 0.5f, count);
    branch.add(compute, work);
}

}  // namespace moestro::layers
