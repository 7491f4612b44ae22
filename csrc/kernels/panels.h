// From matrices and activations to the panel calls of a table.
#pragma once

#include "kernels/ops.h"
#include "kernels/pieces.h"
#include "kernels/table.h"

namespace moestro::kernels {

// Which rows of the activations one matrix reads: listed ones, or `count` from `first` on.
struct RowRange {
    const std::int32_t* ids = nullptr;
    std::int64_t first = 0;
    std::int64_t count = 0;
};

// Checks that `table` can run a matrix on these activations.
void check_linear(const Table& table, const Matrix& weight, const Activations& x);

// Panel `panel` of `weight` over rows [row_begin, row_end) of `range`; y is left to the caller to set.
PanelCall panel_call(const Matrix& weight, const Activations& x, const RowRange& range, int panel, int row_begin,
                     int row_end);

// What takes two panels of `format` through `rows` rows at once, or null where one at a time is faster.
inline auto two_panels(const Table& table, quant::Format format, int rows) {
    const bool faster = rows >= table.two_from && rows <= table.two_to;
    return faster ? table.two_panels[static_cast<std::size_t>(format)] : nullptr;
}

// Computes a piece of `weight`. y: outputs of the piece's first row, `ldy` floats before those of the next.
void run_panels(const Table& table, const Matrix& weight, const Activations& x, const RowRange& range,
                const Pieces::Piece& piece, float* y, std::int64_t ldy);

}  // namespace moestro::kernels
