#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "base/error.h"
#include "base/exact.h"
#include "base/types.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {

constexpr int kLogitsPerItem = 1024;  // work worth a claim

// The ids of the largest scores, as many as there is room for, in descending order, and those scores. Ids come
// ascending, so a later equal one stays behind.
void select(std::span<const float> scores, std::span<std::int32_t> ids, float* best) {
    std::size_t kept = 0;
    for (std::size_t id = 0; id < scores.size(); ++id) {
        const float score = scores[id];
        if (kept == ids.size() && !(score > best[kept - 1])) continue;
        std::size_t at = kept < ids.size() ? kept++ : kept - 1;
        for (; at > 0 && score > best[at - 1]; --at) {
            best[at] = best[at - 1];
            ids[at] = ids[at - 1];
        }
        best[at] = score;
        ids[at] = static_cast<std::int32_t>(id);
    }
}

// The first of the largest.
std::int32_t arg_max(std::span<const float> scores) {
    return static_cast<std::int32_t>(std::max_element(scores.begin(), scores.end()) - scores.begin());
}

// The sum of the `count` largest, in descending order.
float best_of(std::span<const float> scores, int count) {
    constexpr int kMost = 2;
    MOESTRO_CHECK(1 <= count && count <= kMost && static_cast<std::size_t>(count) <= scores.size());
    std::int32_t ids[kMost];
    float best[kMost];
    select(scores, {ids, static_cast<std::size_t>(count)}, best);
    return count == 1 ? best[0] : best[0] + best[1];
}

// Scores of experts outside the kept groups become -inf.
void keep_groups(const RouterRule& rule, std::span<float> scores, std::span<float> of_groups) {
    const std::size_t size = scores.size() / of_groups.size();
    for (std::size_t group = 0; group < of_groups.size(); ++group)
        of_groups[group] = best_of(scores.subspan(group * size, size), rule.group_best);
    for (int kept = 0; kept < rule.kept_groups; ++kept) {
        of_groups[static_cast<std::size_t>(arg_max(of_groups))] = -std::numeric_limits<float>::infinity();
    }
    // What was kept is what can no longer win; scores are finite.
    for (std::size_t group = 0; group < of_groups.size(); ++group)
        if (of_groups[group] != -std::numeric_limits<float>::infinity())
            std::fill_n(scores.begin() + static_cast<std::ptrdiff_t>(group * size), size,
                        -std::numeric_limits<float>::infinity());
}

void normalise_weights(const RouterRule& rule, std::span<float> weights) {
    float sum = 0;
    for (const float weight : weights) sum += weight;
    const float divisor = std::max(sum + rule.norm_eps, rule.norm_min);
    for (float& weight : weights) weight /= divisor;
}

bool finite(std::span<const float> values) {
    return std::all_of(values.begin(), values.end(), [](float value) { return std::isfinite(value); });
}

// One round: the largest of `open` logits (-inf: taken), weighed by the softmax over those near it.
float sparsemixer_round(const Table& table, float jitter, std::span<const float> logits, std::span<const float> open,
                        std::span<float> scratch, std::int32_t& id) {
    constexpr float kFarBelow = 1000;  // exp() makes it nothing
    id = arg_max(open);
    const float best = open[static_cast<std::size_t>(id)];
    for (std::size_t e = 0; e < logits.size(); ++e) {
        const bool left_out =
            open[e] < logits[e] || (best - logits[e]) / std::max(std::fabs(logits[e]), best) > 2 * jitter;
        scratch[e] = left_out ? best - std::max(kFarBelow, std::fabs(best)) : logits[e];
    }
    table.softmax(scratch.data(), static_cast<int>(scratch.size()), scratch.data());
    return scratch[static_cast<std::size_t>(id)];
}

class Routing {
  public:
    Routing(const Table& table, const RouterRule& rule, int experts, float* scratch)
        : table_(table),
          rule_(rule),
          scores_(scratch, static_cast<std::size_t>(experts)),
          choosing_(scratch + experts, static_cast<std::size_t>(experts)),
          groups_(scratch + 2 * experts, static_cast<std::size_t>(rule.groups)) {}

    // False when a logit is not finite.
    bool row(std::span<const float> logits, std::span<std::int32_t> ids, std::span<float> weights) const {
        if (!finite(logits)) return false;
        if (rule_.score == RouterRule::Score::sparsemixer) {
            sparsemixer(logits, ids, weights);
        } else {
            score(logits);
            choose(ids, weights.data());
            for (std::size_t j = 0; j < ids.size(); ++j) weights[j] = scores_[static_cast<std::size_t>(ids[j])];
            weigh(weights);
        }
        if (rule_.normalise) normalise_weights(rule_, weights);
        if (rule_.scale != 1)
            for (float& weight : weights) weight *= rule_.scale;
        return true;
    }

  private:
    void score(std::span<const float> logits) const {
        const int n = static_cast<int>(logits.size());
        if (rule_.score == RouterRule::Score::softmax)
            table_.softmax(logits.data(), n, scores_.data());
        else if (rule_.score == RouterRule::Score::sigmoid)
            table_.sigmoid(logits.data(), n, scores_.data());
        else
            std::copy(logits.begin(), logits.end(), scores_.begin());
    }

    // Leaves in `best` the scores that chose.
    void choose(std::span<std::int32_t> ids, float* best) const {
        if (!rule_.correction && rule_.groups == 1) return select(scores_, ids, best);
        for (std::size_t e = 0; e < scores_.size(); ++e)
            choosing_[e] = scores_[e] + (rule_.correction ? rule_.correction[e] : 0.0f);
        if (rule_.groups > 1) keep_groups(rule_, choosing_, groups_);
        select(choosing_, ids, best);
    }

    void weigh(std::span<float> weights) const {
        const int n = static_cast<int>(weights.size());
        if (rule_.score == RouterRule::Score::chosen) table_.softmax(weights.data(), n, weights.data());
        if (rule_.score == RouterRule::Score::sigmoid_of_chosen) table_.sigmoid(weights.data(), n, weights.data());
    }

    void sparsemixer(std::span<const float> logits, std::span<std::int32_t> ids, std::span<float> weights) const {
        std::copy(logits.begin(), logits.end(), choosing_.begin());
        for (std::size_t j = 0; j < ids.size(); ++j) {
            weights[j] = sparsemixer_round(table_, rule_.jitter, logits, choosing_, scores_, ids[j]);
            choosing_[static_cast<std::size_t>(ids[j])] = -std::numeric_limits<float>::infinity();
        }
    }

    const Table& table_;
    const RouterRule& rule_;
    std::span<float> scores_, choosing_, groups_;
};

constexpr int kScratchFloats = 3;  // per expert

}  // namespace

std::size_t RouterScratch::bytes(int experts, int threads) {
    return kScratchFloats * static_cast<std::size_t>(experts) * static_cast<std::size_t>(threads) * sizeof(float);
}

void route(Compute& compute, const RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids,
           float* weights, RouterScratch& scratch) {
    MOESTRO_CHECK(1 <= rule.top_k && rule.top_k <= experts && rule.groups >= 1 && experts % rule.groups == 0);
    MOESTRO_CHECK(1 <= rule.kept_groups && rule.top_k <= experts / rule.groups * rule.kept_groups);
    if (Accelerator* const there = compute.accelerator())
        return there->route(rule, logits, rows, experts, ids, weights);
    const auto width = static_cast<std::size_t>(experts), chosen = static_cast<std::size_t>(rule.top_k);
    std::vector<float>& all = scratch.scores;
    resize_exactly(all, RouterScratch::bytes(experts, compute.pool().threads()) / sizeof(float));
    const std::int64_t rows_per_item = std::max(1, kLogitsPerItem / experts);
    compute.pool().parallel_for(ceil_div(rows, rows_per_item), [&](std::int64_t item, int worker) {
        const Routing routing(compute.table(), rule, experts,
                              all.data() + static_cast<std::size_t>(worker) * kScratchFloats * width);
        const std::int64_t end = std::min<std::int64_t>(rows, (item + 1) * rows_per_item);
        for (std::int64_t row = item * rows_per_item; row < end; ++row)
            require(routing.row({logits + row * experts, width}, {ids + row * rule.top_k, chosen},
                                {weights + row * rule.top_k, chosen}),
                    ErrorKind::numeric, "a router logit is not finite (row ", row, " of ", rows, ")");
    });
}

void route(Compute& compute, const RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids,
           float* weights) {
    RouterScratch scratch;
    route(compute, rule, logits, rows, experts, ids, weights, scratch);
}

}  // namespace moestro::kernels
