// One panel times some rows. Rows go through in tiles whose totals stay in the first-level cache while the panel's
// segments pass by; inside a segment, blocks of a few rows share every load of a weight.
//
//   tile of rows -> segment of 256 columns -> block of R rows -> columns or groups, ascending
//
// Two panels may go through together (table.h).
//
// A float tile of many rows takes each half of the segment in turn (kHalfPanelRows): half as many accumulators for a
// row leave room for more rows, and half a segment, widened once for all of them, stays in the first-level cache.

constexpr int kRowTile = 64;

struct RowInput {
    const float* x;            // float formats
    const std::int8_t* codes;  // integer formats
    const float* scales;
    const std::int32_t* sums;
};

inline RowInput input_of(const PanelCall& call, int row) {
    const auto id = static_cast<std::size_t>(call.row_ids ? call.row_ids[row] : row);
    const auto groups = static_cast<std::size_t>(call.groups);
    if (!call.codes) return {call.x + id * static_cast<std::size_t>(call.cols), nullptr, nullptr, nullptr};
    return {nullptr, call.codes + id * groups * 32, call.scales + id * groups, call.sums + id * groups};
}

// Scales of a segment, widened once for all rows of a tile.
inline void widen_scales(const std::byte* at, quant::ScaleType type, int count, float* out) {
    for (int i = 0; i < count; i += kLanes) {
        F32 v;
        switch (type) {
            case quant::ScaleType::f16:
                v = load(reinterpret_cast<const quant::F16*>(at) + i);
                break;
            case quant::ScaleType::bf16:
                v = load(reinterpret_cast<const quant::Bf16*>(at) + i);
                break;
            default:
                v = load(reinterpret_cast<const float*>(at) + i);
                break;
        }
        store(out + i, v);
    }
}

// Blocks of R rows or, so that none is left with few, of R - 1, R - 2, ...
template <int R, class Segment>
inline void in_blocks(const Segment& segment, const RowInput* rows, int count, float* totals) {
    if constexpr (R > 1) {
        const int blocks = (count + R - 1) / R, full = count - blocks * (R - 1);
        if (full <= 0) return in_blocks<R - 1>(segment, rows, count, totals);
        for (int block = 0; block < full; ++block, rows += R, totals += R * Segment::kRows)
            segment.template run<R>(rows, totals);
        for (int block = full; block < blocks; ++block, rows += R - 1, totals += (R - 1) * Segment::kRows)
            segment.template run<R - 1>(rows, totals);
    } else {
        for (int r = 0; r < count; ++r) segment.template run<1>(rows + r, totals + r * Segment::kRows);
    }
}

// ---- float formats: 32 outputs, W is float or Bf16 ----

// Half of a panel: 16 outputs of a segment, those of one column `stride` elements after those of the one before. W is
// what is read, Source the panel's own type, whose mixed order the lanes are in until they are stored.
template <class W, class Source, int stride>
struct Half {
    static constexpr int kRows = 32;  // of the totals

    const W* weights;
    int begin, columns;

    template <int R>
    void run(const RowInput* rows, float* totals) const {
        F32 sums[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[r] = splat(0.0f);
        for (int k = 0; k < columns; ++k) {
            const F32 w = load_mixed(weights + k * stride);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sums[r] = fma(w, splat(rows[r].x[begin + k]), sums[r]);
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            const F32 sum = unmix(sums[r], static_cast<const Source*>(nullptr));
            store(totals + r * kRows, add(load(totals + r * kRows), sum));
        }
    }
};

// P panels, of which the first has the lower half of the totals.
template <class W, int P>
struct FloatPanels {
    static constexpr int kPanelRows = 32, kRows = P * kPanelRows;
    static constexpr int kBlock = P == 2 ? 1 : sizeof(W) == sizeof(float) ? kFloatRows : kHalfRows;

    const W* weights[P];
    int begin, columns;

    FloatPanels(const PanelCall&, const std::byte* const* segments, int first_column, int count)
        : begin(first_column), columns(count) {
        for (int p = 0; p < P; ++p) weights[p] = reinterpret_cast<const W*>(segments[p]);
    }

    static std::size_t segment_bytes(const PanelCall&, int padded) {
        return static_cast<std::size_t>(padded) * kPanelRows * sizeof(W);
    }

    void run_rows(const RowInput* rows, int count, float* totals) const {
        if constexpr (P == 1 && kHalfPanelRows != 0)
            if (count > kBlock) return run_halves(rows, count, totals);
        in_blocks<kBlock>(*this, rows, count, totals);
    }

    void run_halves(const RowInput* rows, int count, float* totals) const {
        const W* const from = weights[0];
        if (count <= kHalfPanelRows) {
            in_blocks<kHalfPanelRows>(Half<W, W, kRows>{from, begin, columns}, rows, count, totals);
            in_blocks<kHalfPanelRows>(Half<W, W, kRows>{from + kLanes, begin, columns}, rows, count, totals + kLanes);
            return;
        }
        for (int half = 0; half < kRows; half += kLanes) {
            alignas(64) float wide[256 * kLanes];
            for (int k = 0; k < columns; ++k) store(wide + k * kLanes, load_mixed(from + k * kRows + half));
            in_blocks<kHalfPanelRows>(Half<float, W, kLanes>{wide, begin, columns}, rows, count, totals + half);
        }
    }

    template <int R>
    void run(const RowInput* rows, float* totals) const {
        constexpr int kVectors = 2 * P;
        F32 sums[R][kVectors];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (F32& sum : sums[r]) sum = splat(0.0f);
        for (int k = 0; k < columns; ++k) {
            F32 w[kVectors];
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) w[v] = load_mixed(weights[v / 2] + k * kPanelRows + v % 2 * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const F32 x = splat(rows[r].x[begin + k]);
#pragma GCC unroll 4
                for (int v = 0; v < kVectors; ++v) sums[r][v] = fma(w[v], x, sums[r][v]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
            for (int v = 0; v < kVectors; ++v) {
                float* total = totals + r * kRows + v * kLanes;
                store(total, add(load(total), unmix(sums[r][v], weights[0])));
            }
    }
};

// ---- integer formats: 16 outputs, Codes is the vocabulary's Q8 or Q4 ----

// Groups of a segment of P panels, in the form that Codes reads.
template <class Codes, int P>
struct Groups {
    static constexpr int kRows = P * kLanes;  // of the totals

    const std::byte* const* codes;
    const float (*scales)[8 * kLanes];  // of each panel [groups, 16]
    int first_group, groups;

    template <int R>
    [[gnu::noinline]] void run(const RowInput* rows, float* totals) const {
        F32 sums[R][P];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (F32& sum : sums[r]) sum = splat(0.0f);
        for (int g = 0; g < groups; ++g)
            if constexpr (R == 1)
                add_group(g, rows[0], sums[0]);
            else
                add_group<R>(g, rows, sums);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (int p = 0; p < P; ++p) {
                float* total = totals + r * kRows + p * kLanes;
                store(total, add(load(total), sums[r][p]));
            }
    }

  private:
    const std::byte* group_at(int p, int g) const {
        return codes[p] + static_cast<std::size_t>(g) * Codes::kGroupBytes;
    }
    static F32 add_dot(F32 weight_scale, float x_scale, const typename Codes::Dot& dot, F32 sum) {
        return fma(mul(weight_scale, splat(x_scale)), to_float(Codes::finish(dot)), sum);
    }

    // One row: a chain of quads per panel.
    [[gnu::always_inline]] void add_group(int g, const RowInput& row, F32* sums) const {
        const int at = first_group + g;
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) {
            const std::byte* group = group_at(p, g);
            typename Codes::Dot dot = Codes::start(row.sums[at]);
#pragma GCC unroll 8
            for (int quad = 0; quad < Codes::kQuads; ++quad)
                dot = Codes::dot(dot, Codes::load(group + quad * 64), row.codes + at * 32 + quad * 4);
            sums[p] = add_dot(load(scales[p] + g * kLanes), row.scales[at], dot, sums[p]);
        }
    }

    template <int R>
    [[gnu::always_inline]] void add_group(int g, const RowInput* rows, F32 (*sums)[P]) const {
        const int at = first_group + g;
        const std::byte* group[P];
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) group[p] = group_at(p, g);
        typename Codes::Dot dots[R][P];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
            for (typename Codes::Dot& dot : dots[r]) dot = Codes::start(rows[r].sums[at]);
#pragma GCC unroll 8
        for (int quad = 0; quad < Codes::kQuads; ++quad) {
            typename Codes::Quad w[P];
#pragma GCC unroll 2
            for (int p = 0; p < P; ++p) w[p] = Codes::load(group[p] + quad * 64);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
                for (int p = 0; p < P; ++p)
                    dots[r][p] = Codes::dot(dots[r][p], w[p], rows[r].codes + at * 32 + quad * 4);
        }
#pragma GCC unroll 2
        for (int p = 0; p < P; ++p) {
            const F32 scale = load(scales[p] + g * kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) sums[r][p] = add_dot(scale, rows[r].scales[at], dots[r][p], sums[r][p]);
        }
    }
};

template <class Codes, int P>
struct IntegerPanels {
    static constexpr int kPanelRows = 16, kRows = P * kPanelRows, kBlock = Codes::kRows[P - 1];

    const std::byte* codes[P];
    int first_group, groups;
    alignas(64) float scales[P][8 * kLanes];

    static std::size_t scale_bytes(const PanelCall& call, int padded) {
        const std::size_t each = call.scale == quant::ScaleType::f32 ? 4 : 2;
        return (static_cast<std::size_t>(padded) / 32 * kLanes * each + 63) / 64 * 64;
    }
    static std::size_t segment_bytes(const PanelCall& call, int padded) {
        return scale_bytes(call, padded) + static_cast<std::size_t>(padded) / 32 * Codes::kGroupBytes;
    }

    IntegerPanels(const PanelCall& call, const std::byte* const* segments, int first_column, int count)
        : first_group(first_column / 32), groups((count + 31) / 32) {
        for (int p = 0; p < P; ++p) {
            codes[p] = segments[p] + scale_bytes(call, groups * 32);
            widen_scales(segments[p], call.scale, groups * kLanes, scales[p]);
        }
    }

    void run_rows(const RowInput* rows, int count, float* totals) const {
        using Many = typename Codes::Many;
        if constexpr (!std::is_same_v<Many, Codes>)
            if (count > kBlock) {
                alignas(64) std::byte unpacked[P][8 * Many::kGroupBytes];
                const std::byte* forms[P];
                for (int p = 0; p < P; ++p) {
                    forms[p] = unpacked[p];
                    for (int g = 0; g < groups; ++g)
                        Many::unpack(codes[p] + g * Codes::kGroupBytes, unpacked[p] + g * Many::kGroupBytes);
                }
                const Groups<Many, P> form{forms, scales, first_group, groups};
                return in_blocks<Many::kRows[P - 1]>(form, rows, count, totals);
            }
        in_blocks<kBlock>(Groups<Codes, P>{codes, scales, first_group, groups}, rows, count, totals);
    }
};

// ---- the loop around both ----

inline void write_rows(const PanelCall& call, int first_row, int count, const float* totals, int stride) {
    for (int r = 0; r < count; ++r) {
        float* y = call.y + (first_row + r) * call.ldy;
        for_lanes(call.lanes, [&](int i, int some) {
            F32 v = load(totals + r * stride + i);
            if (call.bias) v = add(v, load_some(call.bias + i, some));
            store_some(y + i, v, some);
        });
    }
}

// Panels alike in scale type and columns, over the same rows.
template <class Segment>
inline void run_calls(const PanelCall* const* calls) {
    constexpr int kPanels = Segment::kRows / Segment::kPanelRows;
    alignas(64) float totals[kRowTile * Segment::kRows];
    RowInput rows[kRowTile];
    const PanelCall& call = *calls[0];
    const int tiles = (call.rows + kRowTile - 1) / kRowTile;
    for (int tile = 0; tile < tiles; ++tile) {
        const auto from = [&](int i) { return static_cast<int>(std::int64_t{call.rows} * i / tiles); };
        const int first_row = from(tile), count = from(tile + 1) - first_row;
        for (int r = 0; r < count; ++r) rows[r] = input_of(call, first_row + r);
        for (int i = 0; i < count * Segment::kRows; i += kLanes) store(totals + i, splat(0.0f));
        const std::byte* at[kPanels];
        for (int p = 0; p < kPanels; ++p) at[p] = calls[p]->panel;
        for (int begin = 0; begin < call.cols; begin += 256) {
            const int columns = call.cols - begin < 256 ? call.cols - begin : 256;
            const Segment segment(call, at, begin, columns);
            segment.run_rows(rows, count, totals);
            for (const std::byte*& next : at) next += Segment::segment_bytes(call, (columns + 31) / 32 * 32);
        }
        for (int p = 0; p < kPanels; ++p)
            write_rows(*calls[p], first_row, count, totals + p * Segment::kPanelRows, Segment::kRows);
    }
}

template <template <class, int> class Panels, class Of>
void panel(const PanelCall& call) {
    const PanelCall* const calls[] = {&call};
    run_calls<Panels<Of, 1>>(calls);
}

template <template <class, int> class Panels, class Of>
void two_panels(const PanelCall& one, const PanelCall& other) {
    const PanelCall* const calls[] = {&one, &other};
    run_calls<Panels<Of, 2>>(calls);
}
