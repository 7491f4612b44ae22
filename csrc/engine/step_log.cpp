#include "engine/step_log.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace moestro::engine {

void StepLog::begin(int rows, std::span<const std::uint8_t> tentative) {
    require(!open_, ErrorKind::usage, "a step is open: end or abort it before the next one begins");
    require(rows >= 1, ErrorKind::usage, "a step has at least one row; got ", rows);
    require(tentative.empty() || tentative.size() == static_cast<std::size_t>(rows), ErrorKind::usage,
            "tentative: one value per row was expected (", rows, "); got ", tentative.size());
    open_ = true;
    rows_ = rows;
    tentative_.assign(tentative.begin(), tentative.end());
    for (Layer& layer : layers_) {
        layer.rows = 0;
        layer.best.clear();
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

void StepLog::add(const store::Catalog& catalog, int layer, const std::int32_t* ids, int rows, int top_k) {
    layers_.resize(std::max(layers_.size(), catalog.layers().size()));
    Layer& log = layers_[catalog.position(layer)];
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

void StepLog::add_scores(const store::Catalog& catalog, int layer, const float* logits, const std::int32_t* ids,
                         const float* weights, int rows, int top_k) {
    Layer& log = layers_[catalog.position(layer)];
    const int experts = catalog.layer(layer).experts();
    log.kept = logits ? std::min(2 * top_k, experts) : top_k;
    if (log.best.empty()) log.best.reserve(static_cast<std::size_t>(rows_) * static_cast<std::size_t>(log.kept));
    const auto better = [](const policy::ScoredExpert& one, const policy::ScoredExpert& other) {
        return one.score != other.score ? one.score > other.score : one.expert < other.expert;
    };
    for (int row = 0; row < rows; ++row) {
        row_.clear();
        if (!logits) {
            for (int j = row * top_k; j < (row + 1) * top_k; ++j) log.best.push_back({ids[j], weights[j]});
            continue;
        }
        const float* values = logits + std::ptrdiff_t{row} * experts;
        const float largest = *std::max_element(values, values + experts);
        float sum = 0;
        for (int expert = 0; expert < experts; ++expert) {
            row_.push_back({expert, std::exp(values[expert] - largest)});
            sum += row_.back().score;
        }
        std::partial_sort(row_.begin(), row_.begin() + log.kept, row_.end(), better);
        for (int j = 0; j < log.kept; ++j) {
            policy::ScoredExpert& one = row_[static_cast<std::size_t>(j)];
            log.best.push_back({one.expert, one.score / sum});
        }
    }
}

void StepLog::check_accepted(std::span<const std::uint8_t> accepted) const {
    require(open_, ErrorKind::usage, "no step is open: call begin_step first");
    require(accepted.empty() || accepted.size() == static_cast<std::size_t>(rows_), ErrorKind::usage,
            "accepted: one value per row was expected (", rows_, "); got ", accepted.size());
    for (std::size_t row = 0; row < accepted.size(); ++row)
        require(accepted[row] || (!tentative_.empty() && tentative_[row]), ErrorKind::usage, "row ", row,
                " was not tentative, so it cannot be rejected: abort the step instead");
}

void StepLog::end() {
    open_ = false;
}

std::size_t StepLog::bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers) {
    return static_cast<std::size_t>(rows * top_k * layers) * (sizeof(std::int32_t) + 2 * sizeof(policy::ScoredExpert));
}

}  // namespace moestro::engine
