// Attention of one KV head's query heads over one segment of keys, block by block. A block's keys and values are read
// once for kHeadBlock heads; lanes are keys while scoring and output elements while summing values.

template <class T, int H>
struct BlockFold {
    const T* k;             // [head_dim][64]
    const T* v;             // [64][head_dim]
    const std::byte* next;  // where the next block's keys start, or null
    const float* q;
    float* states;
    int head_dim, begin, end;  // visible keys [begin, end) of the block
    float scale;
    alignas(64) float weights[H][kKvBlock];  // scores, then exp(score - m)
    float rescale[H];

    float* state(int h) const { return states + h * state_floats(head_dim); }

    // A column of keys is strided, which hides it from the hardware's prefetchers: values are fetched while keys are
    // scored, and the next block's keys while weights are made of scores.
    static void fetch_64(const std::byte* at) {
        for (std::size_t line = 0; line < kKvBlock * sizeof(T); line += 64) __builtin_prefetch(at + line);
    }
    void fetch_next_keys() const {
        if (next)
            for (int i = 0; i < head_dim; ++i) fetch_64(next + static_cast<std::size_t>(i) * kKvBlock * sizeof(T));
    }

    // s_j = scale * sum over i of q[i] k_j[i], for all 64 keys of the block, then -inf where a key is not visible
    // (whatever memory holds there).
    void score() {
        for (int key = 0; key < kKvBlock; key += kKeyVectors * kLanes) {
            F32 dots[H][kKeyVectors];
#pragma GCC unroll 16
            for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
                for (int n = 0; n < kKeyVectors; ++n) dots[h][n] = splat(0.0f);
            for (int i = 0; i < head_dim; ++i) {
                if (key == 0) fetch_64(reinterpret_cast<const std::byte*>(v + i * kKvBlock));
                F32 keys[kKeyVectors];
#pragma GCC unroll 16
                for (int n = 0; n < kKeyVectors; ++n) keys[n] = load(k + i * kKvBlock + key + n * kLanes);
#pragma GCC unroll 16
                for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
                    for (int n = 0; n < kKeyVectors; ++n)
                        dots[h][n] = fma(splat(q[h * head_dim + i]), keys[n], dots[h][n]);
            }
#pragma GCC unroll 16
            for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
                for (int n = 0; n < kKeyVectors; ++n)
                    store(weights[h] + key + n * kLanes, mul(splat(scale), dots[h][n]));
        }
        for (int h = 0; h < H; ++h) {
            for (int j = 0; j < begin; ++j) weights[h][j] = -__builtin_inff();
            for (int j = end; j < kKvBlock; ++j) weights[h][j] = -__builtin_inff();
        }
    }

    // New maximum and sum of one head; its scores become weights.
    void weigh(int h) {
        float* s = weights[h];
        float& m = state(h)[0];
        float& l = state(h)[1];
        const F32 highest = max(max(load(s), load(s + 16)), max(load(s + 32), load(s + 48)));
        const float largest = reduce_max(highest);
        const float raised = m > largest ? m : largest;
        F32 sum = splat(0.0f);
        for (int j = 0; j < kKvBlock; j += kLanes) {
            const F32 e = exp(sub(load(s + j), splat(raised)));
            store(s + j, e);
            sum = add(sum, e);
        }
        rescale[h] = exp(m - raised);
        l = fma(l, rescale[h], reduce_add(sum));
        m = raised;
    }

    // o[i] = o[i] * rescale + sum over visible j of weight_j v_j[i].
    template <int Vectors>
    void add_values(int i, int count) {
        F32 o[H][Vectors];
#pragma GCC unroll 16
        for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
            for (int n = 0; n < Vectors; ++n)
                o[h][n] = mul(load(state(h) + kStateHeader + i + n * kLanes), splat(rescale[h]));
        for (int j = begin; j < end; ++j) {
            F32 values[Vectors];
#pragma GCC unroll 16
            for (int n = 0; n < Vectors; ++n) values[n] = load_some(v + j * head_dim + i + n * kLanes, count);
#pragma GCC unroll 16
            for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
                for (int n = 0; n < Vectors; ++n) o[h][n] = fma(splat(weights[h][j]), values[n], o[h][n]);
        }
#pragma GCC unroll 16
        for (int h = 0; h < H; ++h)
#pragma GCC unroll 16
            for (int n = 0; n < Vectors; ++n) store(state(h) + kStateHeader + i + n * kLanes, o[h][n]);
    }

    void run() {
        score();
        fetch_next_keys();
        for (int h = 0; h < H; ++h) weigh(h);
        int i = 0;
        for (; i + kValueVectors * kLanes <= head_dim; i += kValueVectors * kLanes)
            add_values<kValueVectors>(i, kLanes);
        for (; i + kLanes <= head_dim; i += kLanes) add_values<1>(i, kLanes);
        if (i < head_dim) add_values<1>(i, head_dim - i);
    }
};

template <class T, int H>
inline void fold_heads(const SegmentCall& call, std::int64_t block, int begin, int end, int head, int heads) {
    const std::byte* at = call.blocks[block];
    const bool followed = head == 0 && (block + 1) * kKvBlock <= call.last;
    int h = head;
    for (; h + H <= heads; h += H) {
        BlockFold<T, H> fold;
        fold.k = reinterpret_cast<const T*>(at + call.k_offset);
        fold.v = reinterpret_cast<const T*>(at + call.v_offset);
        fold.next = followed ? call.blocks[block + 1] + call.k_offset : nullptr;
        fold.q = call.q + h * call.head_dim;
        fold.states = call.states + h * state_floats(call.head_dim);
        fold.head_dim = call.head_dim;
        fold.begin = begin;
        fold.end = end;
        fold.scale = call.scale;
        fold.run();
    }
    if constexpr (H > 1)
        if (h < heads) fold_heads<T, H - 1>(call, block, begin, end, h, heads);
}

template <class T>
void attend(const SegmentCall& call) {
    const int floats = state_floats(call.head_dim);
    for (int h = 0; h < call.heads; ++h) {
        for (int i = 0; i < floats; i += kLanes) store(call.states + h * floats + i, splat(0.0f));
        call.states[h * floats] = -__builtin_inff();
    }
    for (std::int64_t block = call.first / kKvBlock; block <= call.last / kKvBlock; ++block) {
        const std::int64_t base = block * kKvBlock;
        const int begin = static_cast<int>(call.first > base ? call.first - base : 0);
        const int end = static_cast<int>(call.last - base < kKvBlock ? call.last - base + 1 : kKvBlock);
        fold_heads<T, kHeadBlock>(call, block, begin, end, 0, call.heads);
    }
}

void merge(float* total, const float* state, int head_dim) {
    const float raised = total[0] > state[0] ? total[0] : state[0];
    const float keep = exp(total[0] - raised), take = exp(state[0] - raised);
    total[0] = raised;
    total[1] = fma(total[1], keep, state[1] * take);
    for (int i = kStateHeader; i < state_floats(head_dim); i += kLanes)
        store(total + i, fma(load(total + i), splat(keep), mul(load(state + i), splat(take))));
}

void finish(const float* state, float* y, int head_dim) {
    const F32 l = splat(state[1]);
    for_lanes(head_dim, [&](int i, int count) { store_some(y + i, div(load(state + kStateHeader + i), l), count); });
}

template <class T>
void narrow(const float* x, std::byte* y, int n) {
    for_lanes(n, [&](int i, int count) { store_narrow(reinterpret_cast<T*>(y) + i, load_some(x + i, count), count); });
}
