// Gated MLPs over all experts of a call, in three phases of one dispatch: gate and up panels with silu folded in,
// quantisation of what they made, down panels.
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

constexpr int kRowsAtOnce = 64;          // rows that a panel takes together
constexpr int kOutputsAtOnce = 64 * 32;  // of gate and as many of up, that wait in the first-level cache

std::int64_t rows_of(const ExpertJob& job) {
    return static_cast<std::int64_t>(job.rows.size());
}

// The outputs [begin, end) of gate and up, whole panels of both, and what follows from them. Both matrices share N and
// K but maybe not the format. Rows x outputs: at most kOutputsAtOnce.
void gate_and_up(const Table& table, const Activations& x, const ExpertJob& job, int begin, int end, int row_begin,
                 int row_end, float* hidden, std::int64_t ld_hidden) {
    alignas(64) float gate[kOutputsAtOnce], up[kOutputsAtOnce];
    const RowRange range{job.rows.data(), 0, rows_of(job)};
    const int width = end - begin;
    const auto call_of = [&](const Matrix& matrix, float* out, int lane) {
        PanelCall call = panel_call(matrix, x, range, lane / matrix.spec.panel_rows(), row_begin, row_end);
        call.y = out + (lane - begin);
        call.ldy = width;
        return call;
    };
    const auto fill = [&](const Matrix& matrix, float* out) {
        const auto run = table.panel[static_cast<std::size_t>(matrix.spec.format)];
        for (int lane = begin; lane < end; lane += matrix.spec.panel_rows()) run(call_of(matrix, out, lane));
    };
    const quant::MatrixSpec &spec = job.mlp.gate.spec, &other = job.mlp.up.spec;
    const bool alike = spec.format == other.format && spec.scale == other.scale;
    if (const auto two = alike ? two_panels(table, spec.format, row_end - row_begin) : nullptr) {
        for (int lane = begin; lane < end; lane += spec.panel_rows())
            two(call_of(job.mlp.gate, gate, lane), call_of(job.mlp.up, up, lane));
    } else {
        fill(job.mlp.gate, gate);
        fill(job.mlp.up, up);
    }
    const auto gated = table.gated[static_cast<std::size_t>(job.mlp.kind)];
    for (int r = row_begin; r < row_end; ++r)
        gated(gate + (r - row_begin) * width, up + (r - row_begin) * width, hidden + r * ld_hidden + begin, width);
}

// Gate and up advance in strips as wide as the wider of their panels.
int strip_rows(const Mlp& mlp) {
    return std::max(mlp.gate.spec.panel_rows(), mlp.up.spec.panel_rows());
}
int strips(const Mlp& mlp) {
    return static_cast<int>(ceil_div(mlp.gate.spec.rows, strip_rows(mlp)));
}

struct Totals {
    std::int64_t pairs = 0, most_rows = 0, strips = 0, down_panels = 0;
    std::size_t in_bytes = 0, down_bytes = 0;
    bool integer_down = false;
};

Totals measure(const Table& table, const Activations& x, std::span<const ExpertJob> jobs) {
    Totals totals;
    for (const ExpertJob& job : jobs) {
        const Mlp& mlp = job.mlp;
        check_linear(table, mlp.gate, x);
        check_linear(table, mlp.up, x);
        MOESTRO_CHECK(mlp.gate.spec.rows == jobs[0].mlp.gate.spec.rows);
        MOESTRO_CHECK(mlp.up.spec.rows == mlp.gate.spec.rows && mlp.down.spec.cols == mlp.gate.spec.rows);
        totals.pairs += rows_of(job);
        totals.most_rows = std::max(totals.most_rows, rows_of(job));
        totals.strips += strips(mlp);
        totals.down_panels += mlp.down.spec.panels();
        totals.in_bytes += mlp.gate.spec.bytes() + mlp.up.spec.bytes();
        totals.down_bytes += mlp.down.spec.bytes();
        totals.integer_down |= quant::is_integer(mlp.down.spec.format);
    }
    return totals;
}

// One of the two stages that multiply: its panels cut into items over all jobs.
template <class Panels>
class Stage {
  public:
    // panels(job): how many of the job's the stage has.
    Stage(std::span<const ExpertJob> jobs, const Pieces& pieces, const Panels& panels)
        : jobs_(jobs), pieces_(pieces), panels_(panels) {
        for (const ExpertJob& job : jobs) items_ += count(job);
    }
    std::int64_t items() const { return items_; }

    // Calls body(job, the job's first pair, piece) for the job that an item belongs to.
    template <class Body>
    void run(std::int64_t item, const Body& body) const {
        std::int64_t first_pair = 0;
        for (const ExpertJob& job : jobs_) {
            const std::int64_t items = count(job);
            if (item < items) return body(job, first_pair, pieces_.at(item, panels_(job), rows_of(job)));
            item -= items;
            first_pair += rows_of(job);
        }
    }

  private:
    std::int64_t count(const ExpertJob& job) const { return pieces_.count(panels_(job), rows_of(job)); }

    std::span<const ExpertJob> jobs_;
    Pieces pieces_;
    Panels panels_;
    std::int64_t items_ = 0;
};

// Few rows take many panels of one matrix in turn: one long stream of memory. Many take one panel of each.
void hidden_piece(const Table& table, const Activations& x, const ExpertJob& job, const Pieces::Piece& piece,
                  float* hidden) {
    const int strip = strip_rows(job.mlp), width = job.mlp.gate.spec.rows;
    const int rows = piece.row_end - piece.row_begin, end = std::min(piece.panel_end * strip, width);
    const auto tiles = static_cast<int>(ceil_div(rows, kRowsAtOnce));
    const int outputs = std::max(1, kOutputsAtOnce / (strip * static_cast<int>(ceil_div(rows, tiles)))) * strip;
    const auto row = [&](int tile) { return piece.row_begin + static_cast<int>(std::int64_t{rows} * tile / tiles); };
    for (int begin = piece.panel_begin * strip; begin < end; begin += outputs)
        for (int tile = 0; tile < tiles; ++tile)
            gate_and_up(table, x, job, begin, std::min(begin + outputs, end), row(tile), row(tile + 1), hidden, width);
}

void down_piece(const Table& table, const Activations& hidden, const ExpertJob& job, std::int64_t first_pair,
                const Pieces::Piece& piece) {
    const std::int64_t ldy = job.mlp.down.spec.rows;
    run_panels(table, job.mlp.down, hidden, {nullptr, first_pair, rows_of(job)}, piece, job.y + piece.row_begin * ldy,
               ldy);
}

}  // namespace

std::size_t MlpScratch::bytes(std::int64_t pairs, std::int64_t intermediate, bool integer, Math math) {
    return static_cast<std::size_t>(pairs * intermediate) * sizeof(float) +
           Activations::bytes(pairs, intermediate, integer, math);
}

void experts(Compute& compute, const Activations& x, std::span<const ExpertJob> jobs, MlpScratch& scratch) {
    if (jobs.empty()) return;
    if (Accelerator* const there = compute.accelerator()) return there->experts(x, jobs);
    const Table& table = compute.table();
    const Totals totals = measure(table, x, jobs);
    const int width = jobs[0].mlp.gate.spec.rows, threads = compute.pool().threads();
    resize_exactly(scratch.hidden, static_cast<std::size_t>(totals.pairs) * static_cast<std::size_t>(width));
    Activations& hidden = scratch.hidden_act;
    hidden.take(table, scratch.hidden.data(), static_cast<int>(totals.pairs), width, totals.integer_down);
    for (const ExpertJob& job : jobs) check_linear(table, job.mlp.down, hidden);

    const Stage in(jobs, Pieces(totals.in_bytes, totals.strips, totals.most_rows, threads),
                   [](const ExpertJob& job) { return strips(job.mlp); });
    const Stage out(jobs, Pieces(totals.down_bytes, totals.down_panels, totals.most_rows, threads),
                    [](const ExpertJob& job) { return job.mlp.down.spec.panels(); });
    const std::int64_t prepared = hidden.has_codes || hidden.has_pairs ? totals.pairs : 0;
    compute.pool().parallel_phases({in.items(), prepared, out.items()}, [&](int phase, std::int64_t item, int) {
        if (phase == 0)
            in.run(item, [&](const ExpertJob& job, std::int64_t first_pair, const Pieces::Piece& piece) {
                hidden_piece(table, x, job, piece, scratch.hidden.data() + first_pair * width);
            });
        else if (phase == 1)
            hidden.prepare_row(table, item);
        else
            out.run(item, [&](const ExpertJob& job, std::int64_t first_pair, const Pieces::Piece& piece) {
                down_piece(table, hidden, job, first_pair, piece);
            });
    });
}

void combine(Compute& compute, std::span<const float* const> outputs, const float* weights, int rows, int top_k,
             int hidden, float* y) {
    MOESTRO_CHECK(outputs.size() == static_cast<std::size_t>(rows) * static_cast<std::size_t>(top_k));
    if (Accelerator* const there = compute.accelerator())
        return there->combine(outputs, weights, rows, top_k, hidden, y);
    constexpr int kColumns = 1024;
    const std::int64_t across = ceil_div(hidden, kColumns);
    compute.pool().parallel_for(rows * across, [&](std::int64_t item, int) {
        const std::int64_t row = item / across, begin = item % across * kColumns;
        const int count = static_cast<int>(std::min<std::int64_t>(kColumns, hidden - begin));
        float* out = y + row * hidden + begin;
        std::fill_n(out, count, 0.0f);
        for (std::int64_t pair = row * top_k; pair < (row + 1) * top_k; ++pair)
            if (outputs[static_cast<std::size_t>(pair)])
                compute.table().axpy(weights[pair], outputs[static_cast<std::size_t>(pair)] + begin, out, count);
    });
}

}  // namespace moestro::kernels
