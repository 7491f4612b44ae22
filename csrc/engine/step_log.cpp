#include "engine/step_log.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moestro::engine {

void StepLog::begin(int rows, std::span<const std::uint8_t> tentative, std::span<const std::int32_t> tokens) {
    require(!open_, ErrorKind::usage, "a step is open: end or abort it before the next one begins");
    require(rows >= 1, ErrorKind::usage, "a step has at least one row; got ", rows);
    require(tentative.empty() || tentative.size() == static_cast<std::size_t>(rows), ErrorKind::usage,
            "tentative: one value per row was expected (", rows, "); got ", tentative.size());
    require(tokens.empty() || tokens.size() == static_cast<std::size_t>(rows), ErrorKind::usage,
            "tokens: one id per row was expected (", rows, "); got ", tokens.size());
    open_ = true;
    rows_ = rows;
    tokens_.assign(tokens.begin(), tokens.end());
    tokens_.resize(static_cast<std::size_t>(rows), -1);
    tentative_.assign(tentative.begin(), tentative.end());
    for (Layer& layer : layers_) {
        layer.rows = 0;
        layer.best.clear();
        for (auto& ahead : layer.ahead) ahead.clear();
    }
}

int StepLog::logged(const store::Catalog& catalog, int layer) const {
    const std::size_t position = catalog.position(layer);
    return position < layers_.size() ? layers_[position].rows : 0;
}

void StepLog::check(const store::Catalog& catalog, int layer, int rows) const {
    require(open_, ErrorKind::usage, "experts run inside a step: call begin_step first");
    const int had = logged(catalog, layer);
    require(rows >= 0 && rows <= rows_ - had, ErrorKind::usage, "layer ", layer, ": ", rows,
            " rows were submitted, but ", rows_ - had, " of the step's ", rows_, " are left");
}

StepLog::Layer& StepLog::log_of(const store::Catalog& catalog, int layer) {
    layers_.resize(std::max(layers_.size(), catalog.layers().size()));
    return layers_[catalog.position(layer)];
}

void StepLog::add(const store::Catalog& catalog, int layer, const std::int32_t* ids, int rows, int top_k) {
    Layer& log = log_of(catalog, layer);
    require(log.rows == 0 || log.top_k == top_k, ErrorKind::usage, "layer ", layer, ": top_k was ", log.top_k,
            " for earlier rows of this step, now ", top_k);
    if (log.rows == 0) {
        log.ids.clear();
        log.ids.reserve(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(top_k));
    }
    log.top_k = top_k;
    log.rows += rows;
    const std::ptrdiff_t width = top_k;
    log.ids.insert(log.ids.end(), ids, ids + rows * width);
    for (auto row = log.ids.end() - rows * width; row != log.ids.end(); row += width) std::sort(row, row + width);
}

// The softmax of a row into row_.
void StepLog::score(const float* logits, int experts) {
    const float largest = *std::max_element(logits, logits + experts);
    float sum = 0;
    row_.clear();
    for (int expert = 0; expert < experts; ++expert) {
        row_.push_back({expert, std::exp(logits[expert] - largest)});
        sum += row_.back().score;
    }
    for (policy::ScoredExpert& one : row_) one.score /= sum;
}

// Appends `kept` of row_: the first ones as they are, then the best of the others.
void StepLog::keep_best(std::vector<policy::ScoredExpert>& best, std::size_t kept, std::size_t first) {
    const auto better = [](const policy::ScoredExpert& one, const policy::ScoredExpert& other) {
        return one.score != other.score ? one.score > other.score : one.expert < other.expert;
    };
    const auto end = row_.begin() + static_cast<std::ptrdiff_t>(kept);
    std::partial_sort(row_.begin() + static_cast<std::ptrdiff_t>(first), end, row_.end(), better);
    best.insert(best.end(), row_.begin(), end);
}

void StepLog::add_scores(const store::Catalog& catalog, int layer, const float* logits, const std::int32_t* ids,
                         const float* weights, int rows, int top_k) {
    Layer& log = log_of(catalog, layer);
    const int experts = catalog.layer(layer).experts();
    log.kept = logits ? std::min(2 * top_k, experts) : top_k;
    if (log.best.empty()) log.best.reserve(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(log.kept));
    for (int row = 0; row < rows; ++row) {
        if (!logits) {
            for (int j = row * top_k; j < (row + 1) * top_k; ++j) log.best.push_back({ids[j], weights[j]});
            continue;
        }
        score(logits + std::ptrdiff_t{row} * experts, experts);
        keep_best(log.best, static_cast<std::size_t>(log.kept), 0);
    }
}

policy::Thought StepLog::add_ahead(const store::Catalog& catalog, int target, int distance, const float* logits,
                                   const std::int32_t* ids, int rows, int top_k) {
    Layer& log = log_of(catalog, target);
    const int experts = catalog.layer(target).experts(), kept = std::min(2 * top_k, experts);
    if (static_cast<int>(log.ahead.size()) < distance) log.ahead.resize(static_cast<std::size_t>(distance));
    std::vector<policy::ScoredExpert>& ahead = log.ahead[static_cast<std::size_t>(distance - 1)];
    if (ahead.empty()) ahead.reserve(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(kept));
    const std::size_t begin = ahead.size();
    for (int row = 0; row < rows; ++row) {
        score(logits + std::ptrdiff_t{row} * experts, experts);
        // What it would choose comes first, which is not always what it likes best.
        for (int j = 0; j < top_k; ++j) {
            const auto at = std::find_if(row_.begin() + j, row_.end(), [&](const policy::ScoredExpert& one) {
                return one.expert == ids[std::ptrdiff_t{row} * top_k + j];
            });
            std::iter_swap(row_.begin() + j, at);
        }
        keep_best(ahead, static_cast<std::size_t>(kept), static_cast<std::size_t>(top_k));
    }
    return {std::span(ahead).subspan(begin), rows, kept, top_k};
}

void StepLog::check_accepted(std::span<const std::uint8_t> accepted) const {
    require(open_, ErrorKind::usage, "no step is open: call begin_step first");
    require(accepted.empty() || accepted.size() == static_cast<std::size_t>(rows_), ErrorKind::usage,
            "accepted: one value per row was expected (", rows_, "); got ", accepted.size());
    for (std::size_t row = 0; row < accepted.size(); ++row)
        require(accepted[row] || (!tentative_.empty() && tentative_[row]), ErrorKind::usage, "row ", row,
                " was not tentative, so it cannot be rejected: abort the step instead");
}

void StepLog::append_to(policy::RoutingRecord& record, const store::Catalog& catalog,
                        const policy::RoutingRecord::Step& step, std::span<const std::uint8_t> accepted,
                        std::size_t most) const {
    if (record.layers.empty())
        for (const store::ExpertLayer& layer : catalog.layers())
            record.layers.push_back({.layer = layer.layer, .experts = layer.experts(), .chosen = {}, .best = {}});
    for (std::size_t position = 0; position < record.layers.size(); ++position) {
        const policy::RoutingRecord::Layer& to = record.layers[position];
        const bool whole = position < layers_.size() && layers_[position].rows == rows_ &&
                           layers_[position].best_of(rows_ - 1).size() > 0;
        require(
            whole && (to.top_k == 0 || (to.top_k == layers_[position].top_k && to.kept == layers_[position].kept)),
            ErrorKind::usage, "layer ", to.layer,
            ": a routing record needs every row of a step in every layer with experts, with one top_k and scores of "
            "as many experts");
        const auto& from = layers_[position].ahead;
        const std::size_t kept = static_cast<std::size_t>(layers_[position].kept);
        for (std::size_t distance = 0; distance < std::max(from.size(), to.ahead.size()); ++distance) {
            const std::size_t had = distance < to.ahead.size() ? to.ahead[distance].size() : 0;
            const std::size_t more = distance < from.size() ? from[distance].size() : 0;
            require((had == 0 && more == 0) ||
                        (had == record.tokens.size() * kept && more == static_cast<std::size_t>(rows_) * kept),
                    ErrorKind::usage, "layer ", to.layer, ": a routing record needs what the layer ", distance + 1,
                    " before foresaw of every row, or of none");
        }
    }
    for (std::size_t position = 0; position < record.layers.size(); ++position) {
        policy::RoutingRecord::Layer& to = record.layers[position];
        const Layer& from = layers_[position];
        to.top_k = from.top_k;
        to.kept = from.kept;
        to.chosen.reserve(most * static_cast<std::size_t>(from.top_k));
        to.best.reserve(most * static_cast<std::size_t>(from.kept));
        to.chosen.insert(to.chosen.end(), from.ids.begin(), from.ids.end());
        to.best.insert(to.best.end(), from.best.begin(), from.best.end());
        to.ahead.resize(std::max(to.ahead.size(), from.ahead.size()));
        for (std::size_t distance = 0; distance < from.ahead.size(); ++distance) {
            to.ahead[distance].reserve(most * static_cast<std::size_t>(from.kept));
            to.ahead[distance].insert(to.ahead[distance].end(), from.ahead[distance].begin(),
                                      from.ahead[distance].end());
        }
    }
    record.steps.push_back(step);
    record.steps.back().rows = rows_;
    record.tokens.insert(record.tokens.end(), tokens_.begin(), tokens_.end());
    for (int row = 0; row < rows_; ++row)
        record.accepted.push_back(accepted.empty() || accepted[static_cast<std::size_t>(row)]);
}

void StepLog::end() {
    open_ = false;
}

std::size_t StepLog::bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers, std::int64_t ahead) {
    const std::size_t scores = 2 * sizeof(policy::ScoredExpert) * static_cast<std::size_t>(1 + ahead);
    return static_cast<std::size_t>(rows * top_k * layers) * (sizeof(std::int32_t) + scores);
}

}  // namespace moestro::engine
