// Shared pieces of the bodies: exp, striped sums, tails. docs/numerics.md defines each to the bit.

constexpr int kLanes = 16;

inline F32 exp(F32 x) {
    const F32 clamped = min(splat(89.0f), max(splat(-104.0f), x));  // both keep a NaN in their second operand
    const I32 n = to_int(mul(clamped, splat(1.44269504f)));
    const F32 whole = to_float(n);
    F32 r = fma(whole, splat(-0.693359375f), clamped);
    r = fma(whole, splat(2.12194440e-4f), r);
    F32 p = splat(1.9875691500e-4f);
    p = fma(p, r, splat(1.3981999507e-3f));
    p = fma(p, r, splat(8.3334519073e-3f));
    p = fma(p, r, splat(4.1665795894e-2f));
    p = fma(p, r, splat(1.6666665459e-1f));
    p = fma(p, r, splat(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), splat(1.0f));
    const I32 half = half_floor(n);
    return zero_at_minus_infinity(x, mul(mul(p, power_of_two(half)), power_of_two(sub(n, half))));
}

inline F32 sigmoid(F32 v) {
    return div(splat(1.0f), add(splat(1.0f), exp(sub(splat(0.0f), v))));
}

// Cephes' polynomial where 1 - e would cancel, and (1 - e) / (1 + e) beyond, with e = exp(-2 |x|).
inline F32 tanh(F32 x) {
    const F32 magnitude = max(sub(splat(0.0f), x), x), one = splat(1.0f), z = mul(x, x);
    F32 p = splat(-5.70498872745e-3f);
    p = fma(p, z, splat(2.06390887954e-2f));
    p = fma(p, z, splat(-5.37397155531e-2f));
    p = fma(p, z, splat(1.33314422036e-1f));
    p = fma(p, z, splat(-3.33332819422e-1f));
    const F32 small = fma(mul(p, z), x, x);
    const F32 e = exp(mul(splat(-2.0f), magnitude));
    const F32 large = div(sub(one, e), add(one, e));
    const F32 with_sign = where_below(x, splat(0.0f), sub(splat(0.0f), large), large);
    return where_below(magnitude, splat(0.625f), small, with_sign);
}

inline float exp(float x) {
    return first(exp(splat(x)));
}
inline float fma(float a, float b, float c) {
    return first(fma(splat(a), splat(b), splat(c)));
}

// Calls body(index, count) for whole vectors (count = 16) and once for what is left (count < 16).
template <class Body>
inline void for_lanes(int n, Body body) {
    int i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
    if (i < n) body(i, n - i);
}

// The first `count` elements, zeros after them.
template <class T>
inline F32 load_some(const T* at, int count) {
    return count == kLanes ? load(at) : load_part(at, count);
}
inline void store_some(float* at, F32 value, int count) {
    if (count == kLanes)
        store(at, value);
    else
        store_part(at, value, count);
}

// Sixteen elements in whatever order they are cheapest to widen in, and that order taken back. A table that has a
// cheaper order than ascending overloads these in its vocabulary.
template <class T>
inline F32 load_mixed(const T* from) {
    return load(from);
}
template <class T>
inline F32 unmix(F32 v, const T*) {
    return v;
}
template <class T>
inline F32 mix(F32 v, const T*) {
    return v;
}
