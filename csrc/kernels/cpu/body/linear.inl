// One panel times some rows. Rows go through in tiles whose totals stay in the first-level cache while the panel's
// segments pass by; inside a segment, blocks of a few rows share every load of a weight.
//
//   tile of rows -> segment of 256 columns -> block of R rows -> columns or groups, ascending
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

template <class T>
inline void prefetch(const T* at) {
    if constexpr (kPrefetchBytes != 0) __builtin_prefetch(reinterpret_cast<const std::byte*>(at) + kPrefetchBytes);
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

// As many blocks of R rows as fit, then smaller ones.
template <int R, class Segment>
inline void in_blocks(const Segment& segment, const RowInput* rows, int count, float* totals) {
    int r = 0;
    for (; r + R <= count; r += R) segment.template run<R>(rows + r, totals + r * Segment::kRows);
    if constexpr (R > 1)
        if (r < count) in_blocks<R - 1>(segment, rows + r, count - r, totals + r * Segment::kRows);
}

// ---- float formats: 32 outputs, W is float or Bf16 ----

// Half of a panel: 16 outputs of a segment, those of one column `stride` elements after those of the one before. W is
// what is read, Source the panel's own type, whose mixed order the lanes are in until they are stored.
template <class W, class Source, int stride, bool streaming>
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
            const W* at = weights + k * stride;
            if constexpr (streaming) prefetch(at);
            const F32 w = load_mixed(at);
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

template <class W>
struct FloatPanel {
    static constexpr int kRows = 32;
    static constexpr int kBlock = sizeof(W) == sizeof(float) ? kFloatRows : kHalfRows;

    const W* weights;
    int begin, columns;

    FloatPanel(const PanelCall&, const std::byte* segment, int first_column, int count)
        : weights(reinterpret_cast<const W*>(segment)), begin(first_column), columns(count) {}

    static std::size_t segment_bytes(const PanelCall&, int padded) {
        return static_cast<std::size_t>(padded) * kRows * sizeof(W);
    }

    void run_rows(const RowInput* rows, int count, float* totals) const {
        if constexpr (kHalfPanelRows != 0)
            if (count > kBlock) return run_halves(rows, count, totals);
        in_blocks<kBlock>(*this, rows, count, totals);
    }

    void run_halves(const RowInput* rows, int count, float* totals) const {
        if (count <= kHalfPanelRows) {
            in_blocks<kHalfPanelRows>(Half<W, W, kRows, true>{weights, begin, columns}, rows, count, totals);
            in_blocks<kHalfPanelRows>(Half<W, W, kRows, false>{weights + kLanes, begin, columns}, rows, count,
                                      totals + kLanes);
            return;
        }
        for (int half = 0; half < kRows; half += kLanes) {
            alignas(64) float wide[256 * kLanes];
            for (int k = 0; k < columns; ++k) store(wide + k * kLanes, load_mixed(weights + k * kRows + half));
            in_blocks<kHalfPanelRows>(Half<float, W, kLanes, false>{wide, begin, columns}, rows, count, totals + half);
        }
    }

    // One row through a segment of each of two panels.
    static void run_two(const FloatPanel& a, const FloatPanel& b, const RowInput& row, float* totals) {
        F32 sums[4];
#pragma GCC unroll 4
        for (F32& sum : sums) sum = splat(0.0f);
        for (int k = 0; k < a.columns; ++k) {
            const W *one = a.weights + k * kRows, *other = b.weights + k * kRows;
            prefetch(one);
            prefetch(other);
            const F32 x = splat(row.x[a.begin + k]);
            sums[0] = fma(load_mixed(one), x, sums[0]);
            sums[1] = fma(load_mixed(one + kLanes), x, sums[1]);
            sums[2] = fma(load_mixed(other), x, sums[2]);
            sums[3] = fma(load_mixed(other + kLanes), x, sums[3]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i)
            store(totals + i * kLanes, add(load(totals + i * kLanes), unmix(sums[i], a.weights)));
    }

    template <int R>
    void run(const RowInput* rows, float* totals) const {
        F32 low[R], high[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) low[r] = high[r] = splat(0.0f);
        for (int k = 0; k < columns; ++k) {
            const W* at = weights + k * kRows;
            if constexpr (R == 1) prefetch(at);
            const F32 w0 = load_mixed(at), w1 = load_mixed(at + kLanes);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) {
                const F32 x = splat(rows[r].x[begin + k]);
                low[r] = fma(w0, x, low[r]);
                high[r] = fma(w1, x, high[r]);
            }
        }
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) {
            float* total = totals + r * kRows;
            store(total, add(load(total), unmix(low[r], weights)));
            store(total + kLanes, add(load(total + kLanes), unmix(high[r], weights)));
        }
    }
};

// ---- integer formats: 16 outputs, Codes is the vocabulary's Q8 or Q4 ----

// Groups of a segment, in the form that Codes reads.
template <class Codes, bool streaming>
struct Groups {
    static constexpr int kRows = 16;  // of the totals

    const std::byte* codes;
    const float* scales;  // [groups, 16]
    int first_group, groups;

    // The sum of one row with group g added.
    [[gnu::always_inline]] F32 add_group(int g, const RowInput& row, F32 sum) const {
        const int at = first_group + g;
        const std::byte* group = group_at(g);
        typename Codes::Dot dot = Codes::start(row.sums[at]);
#pragma GCC unroll 8
        for (int quad = 0; quad < Codes::kQuads; ++quad)
            dot = Codes::dot(dot, Codes::load(group + quad * 64), row.codes + at * 32 + quad * 4);
        return fma(mul(load(scales + g * kLanes), splat(row.scales[at])), to_float(Codes::finish(dot)), sum);
    }

    template <int R>
    void run(const RowInput* rows, float* totals) const {
        F32 sums[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sums[r] = splat(0.0f);
        for (int g = 0; g < groups; ++g)
            if constexpr (R == 1)
                sums[0] = add_group(g, rows[0], sums[0]);
            else
                add_group<R>(g, rows, sums);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) store(totals + r * kRows, add(load(totals + r * kRows), sums[r]));
    }

  private:
    const std::byte* group_at(int g) const {
        const std::byte* group = codes + static_cast<std::size_t>(g) * Codes::kGroupBytes;
        if constexpr (streaming)
            for (int line = 0; line < Codes::kGroupBytes; line += 64) prefetch(group + line);
        return group;
    }

    template <int R>
    [[gnu::always_inline]] void add_group(int g, const RowInput* rows, F32* sums) const {
        const int at = first_group + g;
        const std::byte* group = group_at(g);
        typename Codes::Dot dots[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) dots[r] = Codes::start(rows[r].sums[at]);
#pragma GCC unroll 2
        for (int quad = 0; quad < Codes::kQuads; ++quad) {
            const typename Codes::Quad w = Codes::load(group + quad * 64);
#pragma GCC unroll 16
            for (int r = 0; r < R; ++r) dots[r] = Codes::dot(dots[r], w, rows[r].codes + at * 32 + quad * 4);
        }
        const F32 scale = load(scales + g * kLanes);
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
            sums[r] = fma(mul(scale, splat(rows[r].scales[at])), to_float(Codes::finish(dots[r])), sums[r]);
    }
};

template <class Codes>
struct IntegerPanel {
    static constexpr int kRows = 16;

    const std::byte* codes;
    int first_group, groups;
    alignas(64) float scales[8 * kLanes];

    static std::size_t scale_bytes(const PanelCall& call, int padded) {
        const std::size_t each = call.scale == quant::ScaleType::f32 ? 4 : 2;
        return (static_cast<std::size_t>(padded) / 32 * kLanes * each + 63) / 64 * 64;
    }
    static std::size_t segment_bytes(const PanelCall& call, int padded) {
        return scale_bytes(call, padded) + static_cast<std::size_t>(padded) / 32 * Codes::kGroupBytes;
    }

    IntegerPanel(const PanelCall& call, const std::byte* segment, int first_column, int count)
        : first_group(first_column / 32), groups((count + 31) / 32) {
        codes = segment + scale_bytes(call, groups * 32);
        widen_scales(segment, call.scale, groups * kLanes, scales);
    }

    // One row through a segment of each of two panels.
    static void run_two(const IntegerPanel& a, const IntegerPanel& b, const RowInput& row, float* totals) {
        F32 sums[2] = {splat(0.0f), splat(0.0f)};
        const IntegerPanel* const panels[2] = {&a, &b};
        for (int g = 0; g < a.groups; ++g)
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i)
                sums[i] = Groups<Codes, true>{panels[i]->codes, panels[i]->scales, a.first_group, a.groups}.add_group(
                    g, row, sums[i]);
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) store(totals + i * kRows, add(load(totals + i * kRows), sums[i]));
    }

    void run_rows(const RowInput* rows, int count, float* totals) const {
        using Many = typename Codes::Many;
        if constexpr (!std::is_same_v<Many, Codes>)
            if (count > Codes::kRows) {
                alignas(64) std::byte unpacked[8 * Many::kGroupBytes];
                for (int g = 0; g < groups; ++g)
                    Many::unpack(codes + g * Codes::kGroupBytes, unpacked + g * Many::kGroupBytes);
                const Groups<Many, false> form{unpacked, scales, first_group, groups};
                return in_blocks<Many::kRows>(form, rows, count, totals);
            }
        if (count > Codes::kRows)
            in_blocks<Codes::kRows>(Groups<Codes, false>{codes, scales, first_group, groups}, rows, count, totals);
        else
            in_blocks<Codes::kRows>(Groups<Codes, true>{codes, scales, first_group, groups}, rows, count, totals);
    }
};

// ---- the loop around both ----

template <class Segment>
inline void write_rows(const PanelCall& call, int first_row, int count, const float* totals) {
    for (int r = 0; r < count; ++r) {
        float* y = call.y + (first_row + r) * call.ldy;
        for_lanes(call.lanes, [&](int i, int some) {
            F32 v = load(totals + r * Segment::kRows + i);
            if (call.bias) v = add(v, load_some(call.bias + i, some));
            store_some(y + i, v, some);
        });
    }
}

template <class Segment>
void two_panels(const PanelCall& one, const PanelCall& other) {
    alignas(64) float totals[2 * Segment::kRows];
    for (int i = 0; i < 2 * Segment::kRows; i += kLanes) store(totals + i, splat(0.0f));
    const RowInput row = input_of(one, 0);
    const std::byte *at = one.panel, *other_at = other.panel;
    for (int begin = 0; begin < one.cols; begin += 256) {
        const int columns = one.cols - begin < 256 ? one.cols - begin : 256, padded = (columns + 31) / 32 * 32;
        const Segment segment(one, at, begin, columns), other_segment(other, other_at, begin, columns);
        Segment::run_two(segment, other_segment, row, totals);
        at += Segment::segment_bytes(one, padded);
        other_at += Segment::segment_bytes(other, padded);
    }
    write_rows<Segment>(one, 0, 1, totals);
    write_rows<Segment>(other, 0, 1, totals + Segment::kRows);
}

template <class Segment>
void panel(const PanelCall& call) {
    alignas(64) float totals[kRowTile * Segment::kRows];
    RowInput rows[kRowTile];
    for (int first_row = 0; first_row < call.rows; first_row += kRowTile) {
        const int count = call.rows - first_row < kRowTile ? call.rows - first_row : kRowTile;
        for (int r = 0; r < count; ++r) rows[r] = input_of(call, first_row + r);
        for (int i = 0; i < count * Segment::kRows; i += kLanes) store(totals + i, splat(0.0f));
        const std::byte* at = call.panel;
        for (int begin = 0; begin < call.cols; begin += 256) {
            const int columns = call.cols - begin < 256 ? call.cols - begin : 256;
            const Segment segment(call, at, begin, columns);
            segment.run_rows(rows, count, totals);
            at += Segment::segment_bytes(call, (columns + 31) / 32 * 32);
        }
        write_rows<Segment>(call, first_row, count, totals);
    }
}
