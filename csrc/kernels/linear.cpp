#include <algorithm>

#include "base/error.h"
#include "base/exact.h"
#include "base/types.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "kernels/panels.h"
#include "kernels/pieces.h"

namespace moestro::kernels {

namespace {
constexpr int kGroupPairs = quant::kGroup / 2;
}

void Activations::take(const Table& table, const float* input, int row_count, int col_count, bool integer) {
    x = input;
    rows = row_count;
    cols = col_count;
    groups = static_cast<int>(ceil_div(cols, quant::kGroup));
    has_codes = integer;
    has_pairs = table.round_pairs != nullptr;
    if (!has_codes && !has_pairs) return;
    const auto group_count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(groups);
    if (has_codes) {
        resize_exactly(codes, group_count * quant::kGroup);
        resize_exactly(scales, group_count);
        resize_exactly(sums, group_count);
    }
    if (has_pairs) resize_exactly(pairs, group_count * kGroupPairs);
}

void Activations::prepare_row(const Table& table, std::int64_t row) {
    if (has_codes) quantise_row(table, row);
    if (has_pairs) round_row(table, row);
}

void Activations::prepare(Compute& compute, const float* input, int row_count, int col_count, bool integer) {
    if (compute.accelerator()) {  // which prepares them itself, where it needs them
        x = input;
        rows = row_count;
        cols = col_count;
        groups = static_cast<int>(ceil_div(cols, quant::kGroup));
        has_codes = integer;
        return;
    }
    take(compute.table(), input, row_count, col_count, integer);
    if (!has_codes && !has_pairs) return;
    constexpr int kFloatsPerItem = 8192;  // worth waking a thread for
    const std::int64_t rows_per_item = std::max(1, kFloatsPerItem / std::max(cols, 1));
    compute.pool().parallel_for(ceil_div(rows, rows_per_item), [&](std::int64_t item, int) {
        const std::int64_t end = std::min<std::int64_t>(rows, (item + 1) * rows_per_item);
        for (std::int64_t row = item * rows_per_item; row < end; ++row) prepare_row(compute.table(), row);
    });
}

void Activations::quantise_row(const Table& table, std::int64_t row) {
    const std::int64_t first = row * groups;
    const bool finite = table.quantise(x + row * cols, cols, codes.data() + first * quant::kGroup,
                                       scales.data() + first, sums.data() + first);
    require(finite, ErrorKind::numeric, "an activation about to be quantised is not finite (row ", row, " of ", rows,
            ", ", cols, " columns)");
}

void Activations::round_row(const Table& table, std::int64_t row) {
    const bool finite = table.round_pairs(x + row * cols, cols, pairs.data() + row * groups * kGroupPairs);
    require(finite, ErrorKind::numeric, "an activation rounded to bf16 for fast math is not finite (row ", row, " of ",
            rows, ", ", cols, " columns)");
}

std::size_t Activations::bytes(std::int64_t rows, std::int64_t cols, bool integer, Math math) {
    const auto groups = static_cast<std::size_t>(rows * ceil_div(cols, quant::kGroup));
    const std::size_t codes = integer ? quant::kGroup + sizeof(float) + sizeof(std::int32_t) : 0;
    const std::size_t pairs = math == Math::fast ? kGroupPairs * sizeof(std::uint32_t) : 0;
    return groups * (codes + pairs);
}

void check_linear(const Table& table, const Matrix& weight, const Activations& x) {
    MOESTRO_CHECK(weight.data != nullptr || weight.spec.rows == 0);
    MOESTRO_CHECK(weight.spec.cols == x.cols);
    MOESTRO_CHECK(!quant::is_integer(weight.spec.format) ||
                  (x.has_codes && weight.spec.scale != quant::ScaleType::none));
    MOESTRO_CHECK(x.has_pairs || !table.round_pairs);
}

PanelCall panel_call(const Matrix& weight, const Activations& x, const RowRange& range, int panel, int row_begin,
                     int row_end) {
    const quant::MatrixSpec& spec = weight.spec;
    const int lanes = spec.panel_rows(), first_lane = panel * lanes;
    PanelCall call;
    call.panel = weight.data + static_cast<std::size_t>(panel) * spec.panel_bytes();
    call.cols = spec.cols;
    call.scale = spec.scale;
    call.bias = weight.bias ? weight.bias + first_lane : nullptr;
    call.lanes = std::min(lanes, spec.rows - first_lane);
    call.groups = x.groups;
    call.rows = row_end - row_begin;
    call.row_ids = range.ids ? range.ids + row_begin : nullptr;
    const std::int64_t base = range.ids ? 0 : range.first + row_begin;
    if (quant::is_integer(spec.format)) {
        call.codes = x.codes.data() + base * x.groups * quant::kGroup;
        call.scales = x.scales.data() + base * x.groups;
        call.sums = x.sums.data() + base * x.groups;
    } else {
        call.x = x.x + base * x.cols;
        call.pairs = x.has_pairs ? x.pairs.data() + base * x.groups * kGroupPairs : nullptr;
    }
    return call;
}

void run_panels(const Table& table, const Matrix& weight, const Activations& x, const RowRange& range,
                const Pieces::Piece& piece, float* y, std::int64_t ldy) {
    const auto format = static_cast<std::size_t>(weight.spec.format);
    const auto call_of = [&](int panel) {
        PanelCall call = panel_call(weight, x, range, panel, piece.row_begin, piece.row_end);
        call.y = y + panel * weight.spec.panel_rows();
        call.ldy = ldy;
        return call;
    };
    int panel = piece.panel_begin;
    if (const auto two = two_panels(table, weight.spec.format, piece.row_end - piece.row_begin)) {
        const int half = (piece.panel_end - panel) / 2;
        for (; panel < piece.panel_begin + half; ++panel) two(call_of(panel), call_of(panel + half));
        panel += half;
    }
    for (; panel < piece.panel_end; ++panel) table.panel[format](call_of(panel));
}

void linear(Compute& compute, const Activations& x, std::span<const LinearJob> jobs) {
    if (Accelerator* const there = compute.accelerator()) return there->linear(x, jobs);
    std::size_t weight_bytes = 0;
    std::int64_t panels = 0, items = 0;
    for (const LinearJob& job : jobs) {
        check_linear(compute.table(), job.weight, x);
        MOESTRO_CHECK(job.ldy >= job.weight.spec.rows);
        weight_bytes += job.weight.spec.bytes();
        panels += job.weight.spec.panels();
    }
    const Pieces pieces(weight_bytes, panels, x.rows, compute.pool().threads());
    for (const LinearJob& job : jobs) items += pieces.count(job.weight.spec.panels(), x.rows);
    compute.pool().parallel_for(items, [&](std::int64_t item, int) {
        for (const LinearJob& job : jobs) {
            const std::int64_t count = pieces.count(job.weight.spec.panels(), x.rows);
            if (item < count) {
                const Pieces::Piece piece = pieces.at(item, job.weight.spec.panels(), x.rows);
                return run_panels(compute.table(), job.weight, x, {}, piece, job.y + piece.row_begin * job.ldy,
                                  job.ldy);
            }
            item -= count;
        }
    });
}

void linear_by_head(Compute& compute, const Activations& x, const HeadMatrices& weights, float* y, std::int64_t ldy) {
    if (Accelerator* const there = compute.accelerator()) return there->linear_by_head(x, weights, y, ldy);
    const Table& table = compute.table();
    const quant::MatrixSpec& all = weights.stacked.spec;
    MOESTRO_CHECK(weights.heads > 0 && x.rows % weights.heads == 0 && weights.stride % all.panel_rows() == 0);
    MOESTRO_CHECK(all.rows == weights.heads * weights.stride && weights.rows <= weights.stride &&
                  !weights.stacked.bias);
    check_linear(table, weights.stacked, x);
    const int rows = x.rows / weights.heads;
    const quant::MatrixSpec one{weights.rows, all.cols, all.format, all.scale};
    const std::size_t head_bytes = static_cast<std::size_t>(weights.stride / all.panel_rows()) * all.panel_bytes();
    const Pieces pieces(all.bytes(), std::int64_t{one.panels()} * weights.heads, rows, compute.pool().threads());
    const std::int64_t per_head = pieces.count(one.panels(), rows);
    constexpr int kRowsAtOnce = 64;
    compute.pool().parallel_for(per_head * weights.heads, [&](std::int64_t item, int) {
        const auto head = static_cast<std::int32_t>(item / per_head);
        const Pieces::Piece piece = pieces.at(item % per_head, one.panels(), rows);
        const Matrix matrix{weights.stacked.data + static_cast<std::size_t>(head) * head_bytes, one};
        std::int32_t ids[kRowsAtOnce];
        for (int first = piece.row_begin; first < piece.row_end; first += kRowsAtOnce) {
            const int count = std::min(kRowsAtOnce, piece.row_end - first);
            for (int r = 0; r < count; ++r) ids[r] = (first + r) * weights.heads + head;
            run_panels(table, matrix, x, {ids, 0, count}, {piece.panel_begin, piece.panel_end, 0, count},
                       y + (std::int64_t{first} * weights.heads + head) * ldy, ldy * weights.heads);
        }
    });
}

}  // namespace moestro::kernels
