// The definition in executable form: 16 lanes as plain loops, fused multiply-add from the C library (correctly rounded
// on every CPU). Slow and simple on purpose; it also serves CPUs without AVX2.
#include <type_traits>

#include "kernels/table.h"
#include "quant/convert.h"

namespace moestro::kernels {

namespace {

constexpr int kFloatRows = 1;                // rows that share a load of an f32 weight
constexpr int kHalfRows = 1;                 // rows that share a load of a bf16 weight
constexpr int kHalfPanelRows = 0;            // whole panels at any number of rows
constexpr int kPairsFrom = 1, kPairsTo = 0;  // for how many rows two panels go together: never
constexpr bool kFloatPairs = false;
constexpr int kKeyVectors = 1;    // vectors of keys scored together
constexpr int kValueVectors = 1;  // vectors of output elements summed together
constexpr int kQueryRun = 1;      // queries that share a load of a key or value

struct F32 {
    float at[16];
};
struct I32 {
    std::int32_t at[16];
};

template <class Lane>
F32 floats(Lane lane) {
    F32 out;
    for (int i = 0; i < 16; ++i) out.at[i] = lane(i);
    return out;
}
template <class Lane>
I32 integers(Lane lane) {
    I32 out;
    for (int i = 0; i < 16; ++i) out.at[i] = lane(i);
    return out;
}

template <class T>
T read(const T* from) {  // packed bytes have no C++ type of their own
    T value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}
float widen(float value) {
    return value;
}
using quant::widen;

F32 splat(float v) {
    return floats([&](int) { return v; });
}
template <class T>
F32 load(const T* from) {
    return floats([&](int i) { return widen(read(from + i)); });
}
template <class T>
F32 load_part(const T* from, int count) {
    return floats([&](int i) { return i < count ? widen(read(from + i)) : 0.0f; });
}
void store_part(float* to, F32 v, int count) {
    __builtin_memcpy(to, v.at, static_cast<std::size_t>(count) * sizeof(float));
}
void store(float* to, F32 v) {
    store_part(to, v, 16);
}
void store_narrow(float* to, F32 v, int count) {
    store_part(to, v, count);
}
void store_narrow(quant::Bf16* to, F32 v, int count) {
    for (int i = 0; i < count; ++i) to[i] = quant::to_bf16(v.at[i]);
}
void store_narrow(quant::F16* to, F32 v, int count) {
    for (int i = 0; i < count; ++i) to[i] = quant::to_f16(v.at[i]);
}

F32 add(F32 a, F32 b) {
    return floats([&](int i) { return a.at[i] + b.at[i]; });
}
F32 sub(F32 a, F32 b) {
    return floats([&](int i) { return a.at[i] - b.at[i]; });
}
F32 mul(F32 a, F32 b) {
    return floats([&](int i) { return a.at[i] * b.at[i]; });
}
F32 div(F32 a, F32 b) {
    return floats([&](int i) { return a.at[i] / b.at[i]; });
}
F32 fma(F32 a, F32 b, F32 c) {
    return floats([&](int i) { return __builtin_fmaf(a.at[i], b.at[i], c.at[i]); });
}
F32 negate(F32 a) {
    return floats([&](int i) { return -a.at[i]; });
}
// The second operand where they do not compare, as the hardware's vector instructions do.
F32 max(F32 a, F32 b) {
    return floats([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
F32 min(F32 a, F32 b) {
    return floats([&](int i) { return a.at[i] < b.at[i] ? a.at[i] : b.at[i]; });
}
F32 zero_at_minus_infinity(F32 x, F32 v) {
    return floats([&](int i) { return x.at[i] == -__builtin_inff() ? 0.0f : v.at[i]; });
}
F32 where_below(F32 x, F32 bound, F32 below, F32 others) {
    return floats([&](int i) { return x.at[i] < bound.at[i] ? below.at[i] : others.at[i]; });
}
float first(F32 v) {
    return v.at[0];
}
// The fixed tree: lane i += lane i + 8, then + 4, + 2, + 1.
float reduce_add(F32 v) {
    for (int step = 8; step; step /= 2)
        for (int i = 0; i < step; ++i) v.at[i] += v.at[i + step];
    return v.at[0];
}
float reduce_max(F32 v) {
    for (int i = 1; i < 16; ++i) v.at[0] = v.at[i] > v.at[0] ? v.at[i] : v.at[0];
    return v.at[0];
}

// To the nearest integer, ties to even; |v| < 2^22 or NaN.
I32 to_int(F32 v) {
    constexpr float magic = 12582912.0f;  // 1.5 * 2^23
    return integers([&](int i) { return v.at[i] == v.at[i] ? static_cast<int>((v.at[i] + magic) - magic) : 0; });
}
F32 to_float(I32 v) {
    return floats([&](int i) { return static_cast<float>(v.at[i]); });
}
I32 add(I32 a, I32 b) {
    return integers([&](int i) { return a.at[i] + b.at[i]; });
}
I32 sub(I32 a, I32 b) {
    return integers([&](int i) { return a.at[i] - b.at[i]; });
}
I32 max(I32 a, I32 b) {
    return integers([&](int i) { return a.at[i] > b.at[i] ? a.at[i] : b.at[i]; });
}
I32 half_floor(I32 v) {
    return integers([&](int i) { return v.at[i] >> 1; });
}
F32 power_of_two(I32 v) {
    return floats([&](int i) { return __builtin_bit_cast(float, (v.at[i] + 127) << 23); });
}
I32 magnitude_bits(F32 v) {
    return integers([&](int i) { return __builtin_bit_cast(std::int32_t, v.at[i]) & 0x7fffffff; });
}
std::int32_t reduce_max(I32 v) {
    for (int i = 1; i < 16; ++i) v.at[0] = v.at[i] > v.at[0] ? v.at[i] : v.at[0];
    return v.at[0];
}
std::int32_t reduce_add(I32 v) {
    for (int i = 1; i < 16; ++i) v.at[0] += v.at[i];
    return v.at[0];
}
void store_codes(std::int8_t* to, I32 low, I32 high) {
    for (int i = 0; i < 16; ++i) {
        to[i] = static_cast<std::int8_t>(low.at[i]);
        to[i + 16] = static_cast<std::int8_t>(high.at[i]);
    }
}

// Dots of a group's codes. A quad is 64 bytes: 4 consecutive k of 16 rows.
struct Q8 {
    static constexpr int kRows[] = {1, 1};  // that share a load of one panel, of two
    static constexpr int kGroupBytes = 512, kQuads = 8;
    using Quad = const std::byte*;
    using Dot = I32;
    using Many = Q8;
    static Quad load(const std::byte* at) { return at; }
    static Dot start(std::int32_t) { return {}; }
    static Dot dot(Dot sum, Quad w, const std::int8_t* x) {
        for (int i = 0; i < 64; ++i) sum.at[i / 4] += static_cast<std::int8_t>(w[i]) * x[i % 4];
        return sum;
    }
    static I32 finish(Dot sum) { return sum; }
};

struct Q4 {
    static constexpr int kRows[] = {1, 1};  // that share a load of one panel, of two
    static constexpr int kGroupBytes = 256, kQuads = 4;
    using Quad = const std::byte*;
    using Dot = I32;
    using Many = Q4;
    static Quad load(const std::byte* at) { return at; }
    static Dot start(std::int32_t) { return {}; }
    static Dot dot(Dot sum, Quad w, const std::int8_t* x) {
        for (int i = 0; i < 64; ++i) {
            const int both = static_cast<int>(w[i]);
            sum.at[i / 4] += ((both & 15) - 8) * x[i % 4] + ((both >> 4) - 8) * x[16 + i % 4];
        }
        return sum;
    }
    static I32 finish(Dot sum) { return sum; }
};

#include "kernels/cpu/body/all.inl"

}  // namespace

const Table& scalar_table() {
    return kTable;
}

}  // namespace moestro::kernels
