// Cutting the panels of several matrices, and long row lists, into items for the pool. Where the cuts fall changes no
// result, only balance: items are small enough to even out and large enough to be worth a claim.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/types.h"

namespace moestro::kernels {

class Pieces {
  public:
    // For a call that reads `weight_bytes` of panels (`panels` of them in all) for at most `rows` rows each.
    Pieces(std::size_t weight_bytes, std::int64_t panels, std::int64_t rows, int threads) {
        const std::size_t most = rows < kManyRows ? kMostBytes : kMostBytes / 4;
        const std::size_t bytes_per_item =
            std::clamp(weight_bytes / (static_cast<std::size_t>(threads) * 8), kLeastBytes, most);
        const std::size_t panel_bytes =
            panels ? std::max<std::size_t>(weight_bytes / static_cast<std::size_t>(panels), 1) : 1;
        panels_ = static_cast<std::int64_t>(bytes_per_item / panel_bytes);
        // Two panels may go through together: an even number, where that leaves enough items.
        panels_ = panels_ > 1 || panels >= kManyPanels * threads ? std::max<std::int64_t>(2, panels_ & ~1) : 1;
        const std::int64_t wanted = ceil_div(4 * threads, std::max<std::int64_t>(1, ceil_div(panels, panels_)));
        rows_ = threads == 1 ? std::max<std::int64_t>(rows, 1)
                             : std::max(kRowTile, static_cast<std::int64_t>(round_up(
                                                      static_cast<std::size_t>(ceil_div(rows, wanted)), kRowTile)));
    }

    struct Piece {
        int panel_begin, panel_end, row_begin, row_end;
    };

    // Items of one matrix over its rows; 0 when it has none.
    std::int64_t count(int panels, std::int64_t rows) const {
        return ceil_div(panels, panels_) * ceil_div(rows, rows_);
    }

    // Neighbouring items share rows and walk on through the panels.
    Piece at(std::int64_t item, int panels, std::int64_t rows) const {
        const std::int64_t across = ceil_div(panels, panels_);
        const std::int64_t panel = item % across * panels_, row = item / across * rows_;
        return {static_cast<int>(panel), static_cast<int>(std::min<std::int64_t>(panel + panels_, panels)),
                static_cast<int>(row), static_cast<int>(std::min(row + rows_, rows))};
    }

  private:
    static constexpr std::size_t kLeastBytes = 16 << 10, kMostBytes = 256 << 10;
    static constexpr std::int64_t kRowTile = 64;     // rows the kernels take through a panel together
    static constexpr std::int64_t kManyRows = 16;    // with which less weight is work enough for an item
    static constexpr std::int64_t kManyPanels = 16;  // for each thread

    std::int64_t panels_ = 1, rows_ = 1;
};

}  // namespace moestro::kernels
