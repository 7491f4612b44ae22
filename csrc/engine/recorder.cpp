#include "engine/recorder.h"

namespace moestro::engine {

void Recorder::foreseen(std::size_t target, int distance, const float* logits, std::size_t count) {
    if (!on() || distance > ahead_) return;
    std::vector<float>& said = foreseen_[{target, distance}].logits;
    said.insert(said.end(), logits, logits + count);
}

void Recorder::routed(std::size_t position, const float* logits, int rows, int experts) {
    for (int distance = 1; distance <= ahead_; ++distance) {
        const auto found = foreseen_.find({position, distance});
        const std::size_t width = static_cast<std::size_t>(experts), count = static_cast<std::size_t>(rows) * width;
        if (found == foreseen_.end() || found->second.logits.size() < found->second.met + count) continue;
        const float* said = found->second.logits.data() + found->second.met;
        found->second.met += count;
        Difference& difference = differences_[{position, distance}];
        difference.sum.resize(width);
        difference.rows += rows;
        for (std::size_t i = 0; i < count; ++i)
            difference.sum[i % width] += static_cast<double>(logits[i]) - static_cast<double>(said[i]);
    }
}

void Recorder::end_step(const StepLog& log, const store::Catalog& catalog, const policy::RoutingRecord::Step& step,
                        std::span<const std::uint8_t> accepted) {
    if (!on()) return;
    if (record_.rows() + log.rows() > rows_) {
        lost_ += static_cast<std::uint64_t>(log.rows());
        return;
    }
    log.append_to(record_, catalog, step, accepted, static_cast<std::size_t>(rows_));
}

Recorded Recorder::take(const store::Catalog& catalog) {
    Recorded taken{std::move(record_), {}, lost_};
    for (std::size_t position = 0; position < catalog.layers().size(); ++position) {
        auto& of = taken.offsets.emplace_back();
        for (int distance = 1; distance <= ahead_; ++distance) {
            std::vector<float>& offset =
                of.emplace_back(static_cast<std::size_t>(catalog.layers()[position].experts()));
            const auto found = differences_.find({position, distance});
            if (found == differences_.end()) continue;
            for (std::size_t expert = 0; expert < offset.size(); ++expert)
                offset[expert] =
                    static_cast<float>(found->second.sum[expert] / static_cast<double>(found->second.rows));
        }
    }
    record_ = {};
    differences_.clear();
    lost_ = 0;
    return taken;
}

std::size_t Recorder::bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers, std::int64_t ahead) {
    return StepLog::bytes(rows, top_k, layers, ahead) + static_cast<std::size_t>(rows) * 2 * sizeof(std::int64_t);
}

}  // namespace moestro::engine
