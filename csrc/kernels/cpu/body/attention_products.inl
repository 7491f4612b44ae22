// The two products of attention in registers: a run of H queries shares every load of a key or a value. Lanes are keys
// in one and output elements in the other, so neither the run nor the panel's width has a say in any sum.

// Operands widened and packed beforehand: panel after panel, each [rows][vectors * 16] floats.
struct Packed {
    using Element = float;
    const float* keys;
    const float* values;
    int key_dim;

    const float* keys_at(int key) const { return keys + key * key_dim; }
    static constexpr int key_step() { return kKeyVectors * kLanes; }
    const float* values_at(int i) const { return values + i * kKvBlock; }
    template <int Vectors>
    static constexpr int value_step() {
        return Vectors * kLanes;
    }
    struct Fetch {  // what was just packed is in the caches
        template <int>
        void next() {}
    };
    static Fetch while_scoring(int) { return {}; }
    static Fetch while_summing(int) { return {}; }
};

// Operands where the KV block holds them. Values are fetched while keys are scored, and the next block's keys while
// values are summed, as many bytes at each step as spread the whole over all steps: a burst would fill the queue of
// loads under way, and panels of keys are strided, which hides them from the hardware's prefetchers.
template <class T>
struct InPlace {
    using Element = T;
    const T* keys;       // [key_dim][64]
    const T* values;     // [64][value_dim]
    const T* next_keys;  // of the block that follows, or this one's
    int value_stride;    // elements from one value to the next

    const T* keys_at(int key) const { return keys + key; }
    static constexpr int key_step() { return kKvBlock; }
    const T* values_at(int i) const { return values + i; }
    template <int Vectors>
    int value_step() const {
        return value_stride;
    }
    struct Fetch {
        const std::byte* at;
        template <int Elements>
        void next() {
            constexpr int size = Elements * static_cast<int>(sizeof(T));
#pragma GCC unroll 16
            for (int line = 0; line < size; line += 64) __builtin_prefetch(at + line);
            at += size;
        }
    };
    Fetch while_scoring(int key) const {
        return {reinterpret_cast<const std::byte*>(values + key * value_stride)};
    }
    Fetch while_summing(int i) const {
        return {reinterpret_cast<const std::byte*>(next_keys + i * kKvBlock)};
    }
};

// Memory to be fetched bit by bit, a few lines before each of some number of products.
struct Ahead {
    const std::byte* at = nullptr;
    std::int64_t left = 0, lines = 0;  // bytes, and lines at a time

    Ahead() = default;
    template <class T>
    Ahead(const T* from, int elements, int products)
        : at(reinterpret_cast<const std::byte*>(from)),
          left(static_cast<std::int64_t>(sizeof(T)) * elements),
          lines(left / 64 / products + 1) {}
    void fetch() {
        for (std::int64_t n = 0; n < lines && left > 0; ++n, at += 64, left -= 64) __builtin_prefetch(at);
    }
};

// scores[h][n] = scale * sum over i of q[h][i] keys[i][n] for one panel of keys.
template <int H, class T, class Fetch>
inline void score_panel(const float* const* q, const T* keys, int step, int head_dim, float scale, float* scores,
                        Fetch fetch) {
    F32 dots[H][kKeyVectors];
    const float* row[H];
#pragma GCC unroll 16
    for (int h = 0; h < H; ++h) {
        row[h] = q[h];
#pragma GCC unroll 16
        for (int n = 0; n < kKeyVectors; ++n) dots[h][n] = splat(0.0f);
    }
#pragma GCC unroll 2
    for (int i = 0; i < head_dim; ++i, keys += step) {
        fetch.template next<kKeyVectors * kLanes>();
        F32 key[kKeyVectors];
#pragma GCC unroll 16
        for (int n = 0; n < kKeyVectors; ++n) key[n] = load_mixed(keys + n * kLanes);
#pragma GCC unroll 16
        for (int h = 0; h < H; ++h) {
            const F32 element = splat(row[h][i]);
#pragma GCC unroll 16
            for (int n = 0; n < kKeyVectors; ++n) dots[h][n] = fma(element, key[n], dots[h][n]);
        }
    }
#pragma GCC unroll 16
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
        for (int n = 0; n < kKeyVectors; ++n)
            store(scores + h * kKvBlock + n * kLanes, mul(splat(scale), unmix(dots[h][n], keys)));
}

// o[h] = o[h] * rescale[h] + sum over j in [begin, end) of weights[h][j] values[j], for one panel of output elements.
template <int H, int Vectors, class T, class Fetch>
inline void sum_panel(const float* weights, const float* rescale, const T* values, int step, int begin, int end,
                      float* o, int o_step, Fetch fetch) {
    F32 sums[H][Vectors];
#pragma GCC unroll 16
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n)
            sums[h][n] = mix(mul(load(o + h * o_step + n * kLanes), splat(rescale[h])), values);
    const T* at = values + static_cast<std::ptrdiff_t>(begin) * step;
#pragma GCC unroll 2
    for (int j = begin; j < end; ++j, at += step) {
        fetch.template next<Vectors * kLanes>();
        F32 value[Vectors];
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) value[n] = load_mixed(at + n * kLanes);
#pragma GCC unroll 16
        for (int h = 0; h < H; ++h) {
            const F32 weight = splat(weights[h * kKvBlock + j]);
#pragma GCC unroll 16
            for (int n = 0; n < Vectors; ++n) sums[h][n] = fma(weight, value[n], sums[h][n]);
        }
    }
#pragma GCC unroll 16
    for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
        for (int n = 0; n < Vectors; ++n) store(o + h * o_step + n * kLanes, unmix(sums[h][n], values));
}

// Calls body.template operator()<H>(t) for runs of H <= kQueryRun queries, t the first of each, covering [from, to) as
// evenly as they come.
template <int H, class Body>
inline void one_run(int size, int t, const Body& body) {
    if constexpr (H > 1)
        if (size < H) return one_run<H - 1>(size, t, body);
    body.template operator()<H>(t);
}
template <class Body>
inline void for_runs(int from, int to, const Body& body) {
    const int count = to - from, runs = (count + kQueryRun - 1) / kQueryRun;
    for (int run = 0, t = from; run < runs; ++run) {
        const int size = count / runs + (run < count % runs ? 1 : 0);
        one_run<kQueryRun>(size, t, body);
        t += size;
    }
}
