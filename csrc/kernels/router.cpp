#include <algorithm>

#include "base/error.h"
#include "base/exact.h"
#include "base/types.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {

constexpr int kLogitsPerItem = 1024;  // work worth a claim

// Inserts by descending probability; expert ids come ascending, so a later equal one stays behind.
void select(const float* p, int experts, int top_k, std::int32_t* ids, float* weights) {
    int kept = 0;
    for (std::int32_t id = 0; id < experts; ++id) {
        if (kept == top_k && !(p[id] > weights[kept - 1])) continue;
        int at = kept < top_k ? kept++ : kept - 1;
        for (; at > 0 && p[id] > weights[at - 1]; --at) {
            weights[at] = weights[at - 1];
            ids[at] = ids[at - 1];
        }
        weights[at] = p[id];
        ids[at] = id;
    }
}

void normalise_weights(float* weights, int count) {
    float sum = 0;
    for (int j = 0; j < count; ++j) sum += weights[j];
    for (int j = 0; j < count; ++j) weights[j] /= sum;
}

}  // namespace

std::size_t RouterScratch::bytes(int experts, int threads) {
    return static_cast<std::size_t>(experts) * static_cast<std::size_t>(threads) * sizeof(float);
}

void route_softmax_topk(Compute& compute, const float* logits, int rows, int experts, int top_k, bool normalise,
                        std::int32_t* ids, float* weights, RouterScratch& scratch) {
    MOESTRO_CHECK(1 <= top_k && top_k <= experts);
    std::vector<float>& all = scratch.probabilities;
    resize_exactly(all, RouterScratch::bytes(experts, compute.pool().threads()) / sizeof(float));
    const auto route = [&](std::int64_t row, float* p) {
        const bool finite = compute.table().softmax(logits + row * experts, experts, p);
        require(finite, ErrorKind::numeric, "a router logit is not finite (row ", row, " of ", rows, ")");
        float* kept = weights + row * top_k;
        select(p, experts, top_k, ids + row * top_k, kept);
        if (normalise) normalise_weights(kept, top_k);
    };
    const std::int64_t rows_per_item = std::max(1, kLogitsPerItem / experts);
    compute.pool().parallel_for(ceil_div(rows, rows_per_item), [&](std::int64_t item, int worker) {
        float* p = all.data() + static_cast<std::ptrdiff_t>(worker) * experts;
        const std::int64_t end = std::min<std::int64_t>(rows, (item + 1) * rows_per_item);
        for (std::int64_t row = item * rows_per_item; row < end; ++row) route(row, p);
    });
}

void route_softmax_topk(Compute& compute, const float* logits, int rows, int experts, int top_k, bool normalise,
                        std::int32_t* ids, float* weights) {
    RouterScratch scratch;
    route_softmax_topk(compute, logits, rows, experts, top_k, normalise, ids, weights, scratch);
}

}  // namespace moestro::kernels
