// Operations on one row of floats.

template <class Product>
inline void gated(const float* gate, const float* up, float* h, int n, Product product) {
    for_lanes(n, [&](int i, int count) {
        store_some(h + i, product(load_some(gate + i, count), load_some(up + i, count)), count);
    });
}

void silu_gated(const float* gate, const float* up, float* h, int n) {
    gated(gate, up, h, n, [](F32 g, F32 u) { return mul(div(g, add(splat(1.0f), exp(sub(splat(0.0f), g)))), u); });
}

// The tanh form of GELU is g * sigmoid(2 c (g + 0.044715 g^3)) with c = sqrt(2 / pi).
void gelu_tanh_gated(const float* gate, const float* up, float* h, int n) {
    gated(gate, up, h, n, [](F32 g, F32 u) {
        const F32 inner = mul(g, fma(mul(g, g), splat(0.0713548162726f), splat(1.59576912161f)));
        return mul(div(g, add(splat(1.0f), exp(sub(splat(0.0f), inner)))), u);
    });
}

void clamped_swiglu_gated(const float* gate, const float* up, float* h, int n) {
    gated(gate, up, h, n, [](F32 g, F32 u) {
        const F32 low = min(splat(7.0f), g), bounded = max(splat(-7.0f), min(splat(7.0f), u));
        const F32 glu = div(low, add(splat(1.0f), exp(mul(splat(-1.702f), low))));
        return mul(add(bounded, splat(1.0f)), glu);
    });
}

void sigmoid_of(const float* x, int n, float* y) {
    for_lanes(n, [&](int i, int count) { store_some(y + i, sigmoid(load_some(x + i, count)), count); });
}

void sigmoid_mul(float* x, const float* gate, int n) {
    for_lanes(n, [&](int i, int count) {
        store_some(x + i, mul(load_some(x + i, count), sigmoid(load_some(gate + i, count))), count);
    });
}

void clamp(float* x, float bound, int n) {
    for_lanes(n, [&](int i, int count) {
        store_some(x + i, max(splat(-bound), min(splat(bound), load_some(x + i, count))), count);
    });
}

void softcap(float* x, float cap, int n) {
    for_lanes(n, [&](int i, int count) {
        store_some(x + i, mul(splat(cap), tanh(div(load_some(x + i, count), splat(cap)))), count);
    });
}

void axpy(float weight, const float* x, float* y, int n) {
    for_lanes(n, [&](int i, int count) {
        store_some(y + i, fma(splat(weight), load_some(x + i, count), load_some(y + i, count)), count);
    });
}

void add_rows(float* x, const float* y, int n) {
    for_lanes(
        n, [&](int i, int count) { store_some(x + i, add(load_some(x + i, count), load_some(y + i, count)), count); });
}

float sum_of_squares(const float* x, int n) {
    F32 lanes = splat(0.0f);
    for_lanes(n, [&](int i, int count) {
        const F32 v = load_some(x + i, count);
        lanes = fma(v, v, lanes);
    });
    return reduce_add(lanes);
}

float sum_of(const float* x, int n) {
    F32 lanes = splat(0.0f);
    for_lanes(n, [&](int i, int count) { lanes = add(lanes, load_some(x + i, count)); });
    return reduce_add(lanes);
}

// Of x - mean; y may equal x.
float centre(const float* x, float mean, float* y, int n) {
    F32 lanes = splat(0.0f);
    for_lanes(n, [&](int i, int count) {
        store_some(y + i, sub(load_some(x + i, count), splat(mean)), count);
        const F32 v = load_some(y + i, count);
        lanes = fma(v, v, lanes);
    });
    return reduce_add(lanes);
}

void scale_by(const float* x, float r, const float* w, float* y, int n) {
    for_lanes(n, [&](int i, int count) {
        store_some(y + i, mul(mul(load_some(x + i, count), splat(r)), load_some(w + i, count)), count);
    });
}

bool softmax(const float* logits, int n, float* p) {
    I32 magnitude = magnitude_bits(splat(0.0f));
    F32 largest = splat(logits[0]);
    for_lanes(n, [&](int i, int count) {
        const F32 v = load_some(logits + i, count);
        magnitude = max(magnitude, magnitude_bits(v));
        if (count == kLanes)
            largest = max(largest, v);
        else
            for (int k = i; k < n; ++k) largest = max(largest, splat(logits[k]));
    });
    if (reduce_max(magnitude) >= 0x7f800000) return false;
    const F32 m = splat(reduce_max(largest));
    F32 sum = splat(0.0f);
    for_lanes(n, [&](int i, int count) {
        store_some(p + i, exp(sub(load_some(logits + i, count), m)), count);
        sum = add(sum, load_some(p + i, count));
    });
    const F32 total = splat(reduce_add(sum));
    for_lanes(n, [&](int i, int count) { store_some(p + i, div(load_some(p + i, count), total), count); });
    return true;
}

void rotate(float* x, const float* cos, const float* sin, int half) {
    for_lanes(half, [&](int i, int count) {
        const F32 a = load_some(x + i, count), b = load_some(x + half + i, count);
        const F32 c = load_some(cos + i, count), s = load_some(sin + i, count);
        store_some(x + i, fma(a, c, negate(mul(b, s))), count);
        store_some(x + half + i, fma(b, c, mul(a, s)), count);
    });
}

// As above for neighbours: elements 2 i and 2 i + 1 turn by angle i.
void rotate_pairs(float* x, const float* cos, const float* sin, int half) {
    for_lanes(half, [&](int i, int count) {
        alignas(64) float first[kLanes] = {}, second[kLanes] = {};
        for (int k = 0; k < count; ++k) {
            first[k] = x[2 * (i + k)];
            second[k] = x[2 * (i + k) + 1];
        }
        const F32 a = load(first), b = load(second), c = load_some(cos + i, count), s = load_some(sin + i, count);
        store(first, fma(a, c, negate(mul(b, s))));
        store(second, fma(b, c, mul(a, s)));
        for (int k = 0; k < count; ++k) {
            x[2 * (i + k)] = first[k];
            x[2 * (i + k) + 1] = second[k];
        }
    });
}

bool quantise(const float* x, int cols, std::int8_t* codes, float* scales, std::int32_t* sums) {
    std::int32_t worst = 0;
    for (int begin = 0; begin < cols; begin += 32) {
        const int count = cols - begin < 32 ? cols - begin : 32;
        const F32 a = load_some(x + begin, count < kLanes ? count : kLanes);
        const F32 b = count > kLanes ? load_some(x + begin + kLanes, count - kLanes) : splat(0.0f);
        const std::int32_t magnitude = reduce_max(max(magnitude_bits(a), magnitude_bits(b)));
        worst = magnitude > worst ? magnitude : worst;
        const float scale = __builtin_bit_cast(float, magnitude) / 127.0f;
        // Dividing by 1 where the scale is 0 leaves values below 127 / 2^149, which round to the zero codes wanted.
        const F32 divisor = splat(scale == 0 ? 1.0f : scale), low = splat(-127.0f), high = splat(127.0f);
        const I32 code_a = to_int(min(high, max(low, div(a, divisor))));
        const I32 code_b = to_int(min(high, max(low, div(b, divisor))));
        store_codes(codes + begin, code_a, code_b);
        scales[begin / 32] = scale;
        sums[begin / 32] = reduce_add(add(code_a, code_b));
    }
    return worst < 0x7f800000;
}
