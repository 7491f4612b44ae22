// Routing: a warp per row, which is a block of its own.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/launching.cuh"
#include "kernels/cuda/reductions.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 32;
constexpr std::uint32_t kMinusInfinity = 0xff800000u, kNaN = 0x7fc00000u;

struct Best {
    float score;
    int id;
};
__device__ Best better(Best a, Best b) {
    return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a;
}

// The largest of some scores that are not NaN, the first one of equals. Every lane gets it.
__device__ Best largest_of(const float* scores, int n, int lane) {
    Best best{as_float(kMinusInfinity), n - 1};
    for (int i = lane; i < n; i += kThreads) best = better(best, {scores[i], i});
    for (int step = 16; step > 0; step /= 2)
        best = better(best, {__shfl_xor_sync(kAllLanes, best.score, step), __shfl_xor_sync(kAllLanes, best.id, step)});
    return best;
}

// p = softmax(scores), in shared memory; p may be scores.
__device__ void softmax(const float* scores, int n, float* p, int lane) {
    float most = as_float(kMinusInfinity);
    for (int i = lane; i < n; i += kThreads) most = larger(most, scores[i]);
    most = largest_of_warp(most);
    for (int i = lane; i < n; i += kThreads) p[i] = exp(sub(scores[i], most));
    __syncthreads();
    float sum = 0.0f;
    for (int i = lane % 16; i < n; i += 16) sum = cuda::add(sum, p[i]);
    sum = sum_of_lanes(sum);
    __syncthreads();
    for (int i = lane; i < n; i += kThreads) p[i] = div(p[i], sum);
    __syncthreads();
}

// One row. Between two of its functions the warp has met.
struct Routing {
    const RouterRule& rule;
    const float* logits;
    int experts, lane;
    float *scores, *choosing, *groups, *weights;  // in shared memory
    std::int32_t* ids;

    __device__ bool finite() const {
        bool all = true;
        for (int e = lane; e < experts; e += kThreads) all = all && is_finite(logits[e]);
        return __all_sync(kAllLanes, all);
    }

    __device__ void score() const {
        const bool sigmoids = rule.score == RouterRule::Score::sigmoid;
        for (int e = lane; e < experts; e += kThreads) scores[e] = sigmoids ? sigmoid(logits[e]) : logits[e];
        __syncthreads();
        if (rule.score == RouterRule::Score::softmax) softmax(scores, experts, scores, lane);
    }

    // What a group counts as: its best score, or the sum of its best two.
    __device__ float worth(const float* group, int size) const {
        float first = as_float(kMinusInfinity), second = first;
        for (int e = 0; e < size; ++e) {
            const float score = group[e];
            if (score > first) {
                second = first;
                first = score;
            } else if (score > second) {
                second = score;
            }
        }
        return rule.group_best == 1 ? first : cuda::add(first, second);
    }

    // Scores of experts outside the kept groups become -inf.
    __device__ void keep_groups() const {
        const int size = experts / rule.groups;
        for (int g = lane; g < rule.groups; g += kThreads) groups[g] = worth(choosing + g * size, size);
        __syncthreads();
        for (int kept = 0; kept < rule.kept_groups; ++kept) {
            const int group = largest_of(groups, rule.groups, lane).id;
            __syncthreads();
            if (lane == 0) groups[group] = as_float(kMinusInfinity);
            __syncthreads();
        }
        // What was kept is what can no longer win; scores are finite.
        for (int e = lane; e < experts; e += kThreads)
            if (groups[e / size] != as_float(kMinusInfinity)) choosing[e] = as_float(kMinusInfinity);
        __syncthreads();
    }

    __device__ void choose() const {
        for (int e = lane; e < experts; e += kThreads)
            choosing[e] = rule.correction ? cuda::add(scores[e], rule.correction[e]) : scores[e];
        __syncthreads();
        if (rule.groups > 1) keep_groups();
        for (int j = 0; j < rule.top_k; ++j) {
            const int id = largest_of(choosing, experts, lane).id;
            __syncthreads();
            if (lane == 0) {
                ids[j] = id;
                weights[j] = scores[id];
                choosing[id] = as_float(kNaN);  // never the largest again
            }
            __syncthreads();
        }
    }

    __device__ void weigh() const {
        if (rule.score == RouterRule::Score::chosen) softmax(weights, rule.top_k, weights, lane);
        if (rule.score == RouterRule::Score::sigmoid_of_chosen)
            for (int j = lane; j < rule.top_k; j += kThreads) weights[j] = sigmoid(weights[j]);
        __syncthreads();
    }

    // In rounds: the largest of what is open (-inf: taken), weighed by the softmax over those near it.
    __device__ void sparsemixer() const {
        constexpr float far_below = 1000.0f;  // exp() makes it nothing
        for (int e = lane; e < experts; e += kThreads) choosing[e] = logits[e];
        __syncthreads();
        for (int j = 0; j < rule.top_k; ++j) {
            const Best best = largest_of(choosing, experts, lane);
            const float size = as_float(as_bits(best.score) & 0x7fffffffu);
            const float nothing = sub(best.score, far_below < size ? size : far_below);
            for (int e = lane; e < experts; e += kThreads) {
                const float logit = logits[e], magnitude = as_float(as_bits(logit) & 0x7fffffffu);
                const float distance = div(sub(best.score, logit), magnitude < best.score ? best.score : magnitude);
                scores[e] = choosing[e] < logit || distance > mul(2.0f, rule.jitter) ? nothing : logit;
            }
            __syncthreads();
            softmax(scores, experts, scores, lane);
            if (lane == 0) {
                ids[j] = best.id;
                weights[j] = scores[best.id];
                choosing[best.id] = as_float(kMinusInfinity);
            }
            __syncthreads();
        }
    }

    __device__ void write(float* to) const {
        float sum = 0.0f;
        for (int j = 0; j < rule.top_k; ++j) sum = cuda::add(sum, weights[j]);
        const float raised = cuda::add(sum, rule.norm_eps);
        const float divisor = raised < rule.norm_min ? rule.norm_min : raised;
        for (int j = lane; j < rule.top_k; j += kThreads) {
            const float weight = rule.normalise ? div(weights[j], divisor) : weights[j];
            to[j] = rule.scale != 1.0f ? mul(weight, rule.scale) : weight;
        }
    }
};

std::size_t shared_bytes(const RouterRule& rule, int experts) {
    return (2 * static_cast<std::size_t>(experts) + static_cast<std::size_t>(rule.groups + rule.top_k)) * sizeof(float);
}

__global__ void __launch_bounds__(kThreads) route_row(RouterRule rule, const float* logits, int experts,
                                                      std::int32_t* ids, float* weights, std::uint32_t* fault) {
    auto* const shared = reinterpret_cast<float*>(shared_memory());
    const std::int64_t row = blockIdx.x;
    const Routing routing{rule,
                          logits + row * experts,
                          experts,
                          static_cast<int>(threadIdx.x),
                          shared,
                          shared + experts,
                          shared + 2 * experts,
                          shared + 2 * experts + rule.groups,
                          ids + row * rule.top_k};
    if (!routing.finite()) {
        if (routing.lane == 0) leave_fault(fault, Fault::router);
        return;
    }
    if (rule.score == RouterRule::Score::sparsemixer) {
        routing.sparsemixer();
    } else {
        routing.score();
        routing.choose();
        routing.weigh();
    }
    routing.write(weights + row * rule.top_k);
}

}  // namespace

Status route(const RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids, float* weights,
             std::uint32_t* fault, Stream stream) {
    if (rows == 0) return 0;
    return launch(route_row, dim3(static_cast<unsigned>(rows)), dim3(kThreads), shared_bytes(rule, experts), stream,
                  rule, logits, experts, ids, weights, fault);
}

}  // namespace moestro::kernels::cuda
