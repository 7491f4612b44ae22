// What a step routed where, kept until it is known which of its rows count.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/types.h"
#include "store/catalog.h"

namespace moestro::engine {

// Keeps its memory between steps.
class StepLog {
  public:
    bool open() const { return open_; }
    int rows() const { return rows_; }

    // Throws Error(usage) while a step is open, for fewer than one row, or when tentative is neither empty nor [rows].
    void begin(int rows, std::span<const std::uint8_t> tentative);
    // Throws Error(usage) unless a step is open and has `rows` rows left that this layer has not had.
    void check(const store::Catalog& catalog, int layer, int rows) const;
    // The layer's next rows. ids [rows, top_k].
    void add(const store::Catalog& catalog, int layer, const std::int32_t* ids, int rows, int top_k);

    // Which rows count: accepted is empty (all) or [rows]. Throws Error(usage) when no step is open, sizes differ, or a
    // row that was not tentative is rejected.
    void check_accepted(std::span<const std::uint8_t> accepted) const;
    // Calls use(ExpertId) for accepted rows, in (row, layer, id) order.
    template <class Use>
    void replay(const store::Catalog& catalog, std::span<const std::uint8_t> accepted, Use&& use) const {
        for (int row = 0; row < rows_; ++row) {
            if (!accepted.empty() && !accepted[static_cast<std::size_t>(row)]) continue;
            for (std::size_t position = 0; position < layers_.size(); ++position)
                for (const std::int32_t expert : layers_[position].of(row))
                    use(ExpertId{catalog.layers()[position].layer, expert});
        }
    }
    void end();

    // Of a full step.
    static std::size_t bytes(std::int64_t rows, std::int64_t top_k, std::int64_t layers);

  private:
    struct Layer {                      // by position in the catalog
        std::vector<std::int32_t> ids;  // [rows, top_k], ascending in a row
        int rows = 0, top_k = 0;
        std::span<const std::int32_t> of(int row) const {
            if (row >= rows) return {};
            return std::span(ids).subspan(static_cast<std::size_t>(row) * static_cast<std::size_t>(top_k),
                                          static_cast<std::size_t>(top_k));
        }
    };
    int logged(const store::Catalog& catalog, int layer) const;

    bool open_ = false;
    int rows_ = 0;
    std::vector<std::uint8_t> tentative_;  // [rows] or empty
    std::vector<Layer> layers_;
};

}  // namespace moestro::engine
