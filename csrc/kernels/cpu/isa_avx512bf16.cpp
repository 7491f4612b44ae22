// AVX-512 with BF16: the AVX-512 table with another product for bf16 matrices, taken only in fast math
// (docs/numerics.md, "Fast math"). One vdpbf16ps adds two products to each of 16 sums: a lane is an output, as
// everywhere, and its two products are those of neighbouring k.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own AVX-512 headers: undefined pass-through operands
#pragma GCC diagnostic ignored "-Wuninitialized"

#include <immintrin.h>

#include "kernels/table.h"

namespace moestro::kernels {

namespace {

constexpr int kLanes = 16, kRows = 32;  // a bf16 panel is 32 outputs wide: two vectors
using quant::kGroup, quant::kSegment;
constexpr int kPairBytes = 2 * kRows * 2;  // of a panel: two k
constexpr int kRowTile = 64;               // rows that share a segment once it is interleaved
constexpr int kBlock = 8;                  // rows that share a load of weights: their 16 sums hide the latency of one

inline __mmask16 mask_of(int count) {  // the first `count` of 16 lanes
    return static_cast<__mmask16>((1u << count) - 1);
}
inline __m512i load_words(const void* at) {
    return _mm512_load_si512(static_cast<const __m512i*>(at));
}

// Two k of 32 outputs. Interleaving stays inside each 16 bytes, so `low` has outputs 0-3, 8-11, 16-19, 24-27 and
// `high` the others. Sums keep that order until write_row().
struct Weights {
    __m512i low, high;
};
inline Weights interleave(const std::byte* at) {
    const __m512i even = load_words(at), odd = load_words(at + kPairBytes / 2);
    return {_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)};
}

// Few rows: each pair is interleaved as it streams by.
struct FromPanel {
    const std::byte* segment;
    Weights operator()(int pair) const { return interleave(segment + pair * kPairBytes); }
};
// Many: the segment was interleaved once for all of them.
struct FromBuffer {
    const __m512i* buffer;
    Weights operator()(int pair) const { return {load_words(buffer + 2 * pair), load_words(buffer + 2 * pair + 1)}; }
};

inline __m512 add_products(__m512 sum, __m512i weights, __m512i x) {
    return _mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, weights), __builtin_bit_cast(__m512bh, x));
}

template <int R, class Source>
inline void add_segment(const Source& weights, int first_pair, int pairs, const std::uint32_t* const* x,
                        float* totals) {
    __m512 low[R], high[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) low[r] = high[r] = _mm512_setzero_ps();
    for (int pair = 0; pair < pairs; ++pair) {
        const Weights w = weights(pair);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const __m512i both = _mm512_set1_epi32(static_cast<int>(x[r][first_pair + pair]));
            low[r] = add_products(low[r], w.low, both);
            high[r] = add_products(high[r], w.high, both);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
        float* total = totals + r * kRows;
        _mm512_storeu_ps(total, _mm512_add_ps(_mm512_loadu_ps(total), low[r]));
        _mm512_storeu_ps(total + kLanes, _mm512_add_ps(_mm512_loadu_ps(total + kLanes), high[r]));
    }
}

// As many blocks of R rows as fit, then smaller ones.
template <int R, class Source>
inline void in_blocks(const Source& weights, int first_pair, int pairs, const std::uint32_t* const* x, int count,
                      float* totals) {
    int r = 0;
    for (; r + R <= count; r += R) add_segment<R>(weights, first_pair, pairs, x + r, totals + r * kRows);
    if constexpr (R > 1)
        if (r < count) in_blocks<R - 1>(weights, first_pair, pairs, x + r, count - r, totals + r * kRows);
}

inline void write_half(const PanelCall& call, int begin, __m512 sums, float* y) {
    const int count = call.lanes - begin < kLanes ? call.lanes - begin : kLanes;
    if (count <= 0) return;
    if (call.bias) sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(mask_of(count), call.bias + begin));
    _mm512_mask_storeu_ps(y + begin, mask_of(count), sums);
}

inline void write_row(const PanelCall& call, const float* totals, float* y) {
    const __m512 low = _mm512_loadu_ps(totals), high = _mm512_loadu_ps(totals + kLanes);
    const __m512i first = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    const __m512i second = _mm512_setr_epi32(8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31);
    write_half(call, 0, _mm512_permutex2var_ps(low, first, high), y);
    write_half(call, kLanes, _mm512_permutex2var_ps(low, second, high), y);
}

// The rows of one tile through the whole panel. `buffer`: room for one interleaved segment.
inline void run_tile(const PanelCall& call, const std::uint32_t* const* x, int count, float* totals, __m512i* buffer) {
    for (int i = 0; i < count * kRows; i += kLanes) _mm512_storeu_ps(totals + i, _mm512_setzero_ps());
    for (int begin = 0; begin < call.cols; begin += kSegment) {
        const int columns = call.cols - begin < kSegment ? call.cols - begin : kSegment;
        const int pairs = (columns + 1) / 2;  // an odd last column has a zero weight and a zero input beside it
        const std::byte* segment = call.panel + static_cast<std::size_t>(begin) * kRows * 2;
        if (count <= kBlock) {
            in_blocks<kBlock>(FromPanel{segment}, begin / 2, pairs, x, count, totals);
            continue;
        }
        for (int pair = 0; pair < pairs; ++pair) {
            const Weights w = interleave(segment + pair * kPairBytes);
            _mm512_store_si512(buffer + 2 * pair, w.low);
            _mm512_store_si512(buffer + 2 * pair + 1, w.high);
        }
        in_blocks<kBlock>(FromBuffer{buffer}, begin / 2, pairs, x, count, totals);
    }
}

void panel(const PanelCall& call) {
    alignas(64) float totals[kRowTile * kRows];
    __m512i buffer[kSegment];
    const std::uint32_t* x[kRowTile];
    for (int first_row = 0; first_row < call.rows; first_row += kRowTile) {
        const int count = call.rows - first_row < kRowTile ? call.rows - first_row : kRowTile;
        for (int r = 0; r < count; ++r) {
            const int row = call.row_ids ? call.row_ids[first_row + r] : first_row + r;
            x[r] = call.pairs + static_cast<std::size_t>(row) * static_cast<std::size_t>(call.groups) * (kGroup / 2);
        }
        run_tile(call, x, count, totals, buffer);
        for (int r = 0; r < count; ++r) write_row(call, totals + r * kRows, call.y + (first_row + r) * call.ldy);
    }
}

constexpr int kRoundsToInfinity = 0x7f7f8000;  // the least magnitude that does, as bits

bool round_pairs(const float* x, int cols, std::uint32_t* pairs) {
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff), finite = _mm512_set1_epi32(kRoundsToInfinity - 1);
    unsigned bad = 0;
    for (int begin = 0; begin < cols; begin += kGroup) {
        const int count = cols - begin, low = count < kLanes ? count : kLanes, high = count - low;
        const __m512 a = _mm512_maskz_loadu_ps(mask_of(low), x + begin);
        const __m512 b = high ? _mm512_maskz_loadu_ps(mask_of(high < kLanes ? high : kLanes), x + begin + kLanes)
                              : _mm512_setzero_ps();
        bad |= _mm512_cmpgt_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a), no_sign), finite);
        bad |= _mm512_cmpgt_epi32_mask(_mm512_and_si512(_mm512_castps_si512(b), no_sign), finite);
        _mm512_storeu_si512(pairs + begin / 2, __builtin_bit_cast(__m512i, _mm512_cvtne2ps_pbh(b, a)));
    }
    return bad == 0;
}

}  // namespace

const Table& avx512bf16_table() {
    static const Table table = [] {
        Table made = avx512_table();
        made.panel[static_cast<int>(quant::Format::bf16)] = panel;
        made.round_pairs = round_pairs;
        return made;
    }();
    return table;
}

}  // namespace moestro::kernels
