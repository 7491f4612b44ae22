// Transposes in registers with the baseline's SSE2: packing float formats is a copy at memory speed.
#include "quant/interleave.h"

#include <emmintrin.h>

namespace moestro::quant {

namespace {

__m128i load(const std::byte* at) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}
void store(std::byte* at, __m128i value) {
    _mm_store_si128(reinterpret_cast<__m128i*>(at), value);
}

// 8 rows x 8 columns of 16-bit elements; output rows are 64 bytes apart.
void transpose_8x8(const std::byte* in, std::ptrdiff_t stride, std::byte* out) {
    const __m128i r0 = load(in), r1 = load(in + stride), r2 = load(in + 2 * stride), r3 = load(in + 3 * stride);
    const __m128i r4 = load(in + 4 * stride), r5 = load(in + 5 * stride), r6 = load(in + 6 * stride),
                  r7 = load(in + 7 * stride);
    const __m128i a0 = _mm_unpacklo_epi16(r0, r1), a1 = _mm_unpackhi_epi16(r0, r1);
    const __m128i a2 = _mm_unpacklo_epi16(r2, r3), a3 = _mm_unpackhi_epi16(r2, r3);
    const __m128i a4 = _mm_unpacklo_epi16(r4, r5), a5 = _mm_unpackhi_epi16(r4, r5);
    const __m128i a6 = _mm_unpacklo_epi16(r6, r7), a7 = _mm_unpackhi_epi16(r6, r7);
    const __m128i b0 = _mm_unpacklo_epi32(a0, a2), b1 = _mm_unpackhi_epi32(a0, a2);
    const __m128i b2 = _mm_unpacklo_epi32(a1, a3), b3 = _mm_unpackhi_epi32(a1, a3);
    const __m128i b4 = _mm_unpacklo_epi32(a4, a6), b5 = _mm_unpackhi_epi32(a4, a6);
    const __m128i b6 = _mm_unpacklo_epi32(a5, a7), b7 = _mm_unpackhi_epi32(a5, a7);
    store(out + 0 * 64, _mm_unpacklo_epi64(b0, b4));
    store(out + 1 * 64, _mm_unpackhi_epi64(b0, b4));
    store(out + 2 * 64, _mm_unpacklo_epi64(b1, b5));
    store(out + 3 * 64, _mm_unpackhi_epi64(b1, b5));
    store(out + 4 * 64, _mm_unpacklo_epi64(b2, b6));
    store(out + 5 * 64, _mm_unpackhi_epi64(b2, b6));
    store(out + 6 * 64, _mm_unpacklo_epi64(b3, b7));
    store(out + 7 * 64, _mm_unpackhi_epi64(b3, b7));
}

// 4 rows x 4 columns of 32-bit elements; output rows are 128 bytes apart.
void transpose_4x4(const std::byte* in, std::ptrdiff_t stride, std::byte* out) {
    const __m128i r0 = load(in), r1 = load(in + stride), r2 = load(in + 2 * stride), r3 = load(in + 3 * stride);
    const __m128i a0 = _mm_unpacklo_epi32(r0, r1), a1 = _mm_unpackhi_epi32(r0, r1);
    const __m128i a2 = _mm_unpacklo_epi32(r2, r3), a3 = _mm_unpackhi_epi32(r2, r3);
    store(out + 0 * 128, _mm_unpacklo_epi64(a0, a2));
    store(out + 1 * 128, _mm_unpackhi_epi64(a0, a2));
    store(out + 2 * 128, _mm_unpacklo_epi64(a1, a3));
    store(out + 3 * 128, _mm_unpackhi_epi64(a1, a3));
}

}  // namespace

void interleave_16(const std::byte* rows, std::ptrdiff_t stride, std::byte* out) {
    for (int column = 0; column < kTile; column += 8)
        for (int row = 0; row < kTile; row += 8)
            transpose_8x8(rows + row * stride + column * 2, stride, out + column * 64 + row * 2);
}

void interleave_32(const std::byte* rows, std::ptrdiff_t stride, std::byte* out) {
    for (int column = 0; column < kTile; column += 4)
        for (int row = 0; row < kTile; row += 4)
            transpose_4x4(rows + row * stride + column * 4, stride, out + column * 128 + row * 4);
}

}  // namespace moestro::quant
