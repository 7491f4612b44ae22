#include "engine/step_log.h"

#include <algorithm>

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
    for (Layer& layer : layers_) layer.rows = 0;
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
    return static_cast<std::size_t>(rows * top_k * layers) * sizeof(std::int32_t);
}

}  // namespace moestro::engine
