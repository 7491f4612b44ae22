// Attention of a tile of queries over one segment of keys, block by block. Each query folds the keys that it sees in
// the order docs/numerics.md gives, whatever tile it is in.

// Queries from which on a block is widened and packed before it is used: fewer use it where it lies.
constexpr int kPackedQueries = 24;

// Where the parts of a tile's states lie (Float: float or const float).
template <class Float>
struct TileStates {
    Float *m, *l, *o;
    int o_step;

    TileStates(Float* at, const QueryTile& tile)
        : m(at),
          l(m + round_to_lanes(tile.rows * tile.group)),
          o(l + round_to_lanes(tile.rows * tile.group)),
          o_step(round_to_lanes(tile.value_dim)) {}
};

// And those of what folding needs besides.
struct FoldScratch {
    float *keys, *values, *scores, *reduced, *rescale;

    FoldScratch(float* at, const QueryTile& tile)
        : keys(at),
          values(keys + round_to_lanes(tile.key_dim) * kKvBlock),
          scores(values + round_to_lanes(tile.value_dim) * kKvBlock),
          reduced(scores + tile.rows * tile.group * kKvBlock),  // over a query's keys: the largest score, then the sum
          rescale(reduced + round_to_lanes(tile.rows * tile.group)) {}
};

// A block's keys as panels of kKeyVectors vectors.
template <class T>
inline void pack_keys(const T* keys, int head_dim, float* packed) {
    constexpr int width = kKeyVectors * kLanes;
    for (int i = 0; i < head_dim; ++i)
        for (int key = 0; key < kKvBlock; key += kLanes)
            store(packed + key / width * width * head_dim + i * width + key % width, load(keys + i * kKvBlock + key));
}

// Rows become columns, four by four in registers.
inline void transpose(const float (&in)[kLanes][kLanes], float (&out)[kLanes][kLanes]) {
    using Four = float __attribute__((vector_size(16), may_alias));
    const auto load_four = [](const float* at) { return *reinterpret_cast<const Four*>(at); };
    const auto store_four = [](float* at, Four v) { *reinterpret_cast<Four*>(at) = v; };
    for (int row = 0; row < kLanes; row += 4)
        for (int column = 0; column < kLanes; column += 4) {
            const Four a = load_four(&in[row][column]), b = load_four(&in[row + 1][column]),
                       c = load_four(&in[row + 2][column]), d = load_four(&in[row + 3][column]);
            const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5),
                       ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7),
                       cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5),
                       cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
            store_four(&out[column][row], __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
            store_four(&out[column + 1][row], __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
            store_four(&out[column + 2][row], __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
            store_four(&out[column + 3][row], __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
        }
}

// The same from keys that lie row by row, as values do.
template <class T>
inline void turn_keys(const T* rows, int key_dim, float* packed) {
    constexpr int width = kKeyVectors * kLanes;
    for (int key = 0; key < kKvBlock; key += kLanes)
        for (int from = 0; from < key_dim; from += kLanes) {
            const int count = key_dim - from < kLanes ? key_dim - from : kLanes;
            alignas(64) float lying[kLanes][kLanes], turned[kLanes][kLanes];
            for (int r = 0; r < kLanes; ++r) store(lying[r], load_some(rows + (key + r) * key_dim + from, count));
            transpose(lying, turned);
            float* to = packed + key / width * width * key_dim + key % width;
            for (int i = 0; i < count; ++i) store(to + (from + i) * width, load(turned[i]));
        }
}

// Output elements [from, to) of a block's values as panels of `Vectors` vectors, rows [begin, end); `to` may leave the
// last vector incomplete.
template <int Vectors, class T>
inline void pack_values(const T* values, int stride, int from, int to, int begin, int end, float* packed) {
    constexpr int width = Vectors * kLanes;
    for (int j = begin; j < end; ++j)
        for (int i = from; i < to; i += kLanes)
            store(packed + i / width * width * kKvBlock + j * width + i % width,
                  load_some(values + j * stride + i, to - i < kLanes ? to - i : kLanes));
}

struct BlockFold {
    const SegmentCall& call;
    TileStates<float> states;
    FoldScratch scratch;
    std::int64_t base;     // position of the block's first key
    int from = 0, to = 0;  // queries that see any of the block
    Ahead while_scoring{}, while_summing{};

    // Visible keys of a row of the tile: [begin, end) of the block.
    int begin(int row) const {
        const std::int64_t low = call.reach.first(call.position + row) - base;
        return static_cast<int>(low < 0 ? 0 : low > kKvBlock ? kKvBlock : low);
    }
    int end(int row) const {
        const std::int64_t high = call.position + row + 1 - base;
        return static_cast<int>(high < 0 ? 0 : high > kKvBlock ? kKvBlock : high);
    }
    int begin_of(int query) const { return begin(query / call.tile.group); }
    int end_of(int query) const { return end(query / call.tile.group); }

    // Rows see keys in steps: those that see none of this block come first (it is their future) or last (they are past
    // it).
    void find_queries() {
        int first = 0, last = call.tile.rows;
        while (first < last && end(first) == 0) ++first;
        while (last > first && begin(last - 1) == kKvBlock) --last;
        from = first * call.tile.group;
        to = last * call.tile.group;
    }

    template <class Operands>
    void score(const Operands& operands) const {
        constexpr int width = kKeyVectors * kLanes;
        const int key_dim = call.tile.key_dim;
        Ahead ahead = while_scoring;
        for (int key = begin_of(from) / width * width; key < end_of(to - 1); key += width)
            for_runs(from, to, [&]<int H>(int t) {
                if (key >= end_of(t + H - 1) || key + width <= begin_of(t)) return;
                ahead.fetch();
                const float* q[H];
                int row = t / call.tile.group, head = t % call.tile.group;
                for (int h = 0; h < H; ++h) {
                    q[h] = call.q + row * call.q_stride + head * key_dim;
                    if (++head == call.tile.group) head = 0, ++row;
                }
                score_panel<H>(q, operands.keys_at(key), operands.key_step(), key_dim, call.scale,
                               scratch.scores + t * kKvBlock + key, operands.while_scoring(key));
            });
    }

    // Invisible keys score -inf, whatever memory holds there.
    void hide() const {
        for (int t = from; t < to;) {
            const int visible = begin_of(t), hidden = end_of(t);
            for (int head = 0; head < call.tile.group; ++head, ++t) {
                float* s = scratch.scores + t * kKvBlock;
                for (int j = 0; j < visible; ++j) s[j] = -__builtin_inff();
                for (int j = hidden; j < kKvBlock; ++j) s[j] = -__builtin_inff();
            }
        }
    }

    // New maxima and sums; scores become weights.
    void weigh() const {
        if (call.softcap > 0)
            for (int t = from; t < to; ++t) softcap(scratch.scores + t * kKvBlock, call.softcap, kKvBlock);
        hide();
        for (int t = from; t < to; ++t) {
            const float* s = scratch.scores + t * kKvBlock;
            scratch.reduced[t] = reduce_max(max(max(load(s), load(s + 16)), max(load(s + 32), load(s + 48))));
        }
        for_lanes(to - from, [&](int at, int count) {
            const int t = from + at;
            const F32 m = load_some(states.m + t, count);
            const F32 raised = max(m, load_some(scratch.reduced + t, count));
            store_some(scratch.rescale + t, exp(sub(m, raised)), count);
            store_some(states.m + t, raised, count);
        });
        for (int t = from; t < to; ++t) {
            float* s = scratch.scores + t * kKvBlock;
            const F32 m = splat(states.m[t]);
            F32 sum = splat(0.0f);
            for (int j = 0; j < kKvBlock; j += kLanes) {
                const F32 e = exp(sub(load(s + j), m));
                store(s + j, e);
                sum = add(sum, e);
            }
            scratch.reduced[t] = reduce_add(sum);
        }
        for_lanes(to - from, [&](int at, int count) {
            const int t = from + at;
            const F32 l = load_some(states.l + t, count), rescale = load_some(scratch.rescale + t, count);
            store_some(states.l + t, fma(l, rescale, load_some(scratch.reduced + t, count)), count);
        });
    }

    // Output elements from i on, one panel. The keys that a run's queries all see are summed together; those that only
    // some see, at either end, for each by itself.
    template <int Vectors, class Operands>
    void sum(const Operands& operands, int i, Ahead& ahead) const {
        for_runs(from, to, [&]<int H>(int t) {
            ahead.fetch();
            const int first = begin_of(t), all_from = begin_of(t + H - 1), all_to = end_of(t), last = end_of(t + H - 1);
            const auto add = [&]<int Count>(int query, const float* rescale, int begin, int end) {
                sum_panel<Count, Vectors>(scratch.scores + query * kKvBlock, rescale, operands.values_at(i),
                                          operands.template value_step<Vectors>(), begin, end,
                                          states.o + query * states.o_step + i, states.o_step,
                                          operands.while_summing(i));
            };
            if (first == all_from && all_to == last) {
                add.template operator()<H>(t, scratch.rescale + t, first, last);
                return;
            }
            float rescale[H];
            const bool overlap = all_from < all_to;
            for (int h = 0; h < H; ++h) {
                add.template operator()<1>(t + h, scratch.rescale + t + h, begin_of(t + h),
                                           overlap ? all_from : end_of(t + h));
                rescale[h] = 1.0f;
            }
            if (!overlap) return;
            add.template operator()<H>(t, rescale, all_from, all_to);
            for (int h = 0; h < H; ++h)
                if (end_of(t + h) > all_to) add.template operator()<1>(t + h, rescale, all_to, end_of(t + h));
        });
    }

    template <class Operands>
    void fold(const Operands& operands) const {
        score(operands);
        weigh();
        constexpr int width = kValueVectors * kLanes;
        const int value_dim = call.tile.value_dim;
        Ahead ahead = while_summing;
        int i = 0;
        for (; i + width <= value_dim; i += width) sum<kValueVectors>(operands, i, ahead);
        if constexpr (kValueVectors > 1)
            for (; i + kLanes <= value_dim; i += kLanes) sum<1>(operands, i, ahead);
        if (i < value_dim) sum<1>(Packed{nullptr, scratch.values, call.tile.key_dim}, i, ahead);
    }

    // The operands of the next block (or of this one again, where it is the last) are fetched meanwhile.
    template <class T>
    void run(const InPlace<T>& block, const T* next_values) {
        constexpr int width = kValueVectors * kLanes;
        const int key_dim = call.tile.key_dim, value_dim = call.tile.value_dim;
        const int whole = value_dim / kLanes * kLanes, paneled = value_dim / width * width;
        find_queries();
        const int low = begin_of(from), high = end_of(to - 1), step = block.value_stride;
        if (whole < value_dim) pack_values<1>(block.values, step, whole, value_dim, low, high, scratch.values);
        if (to - from < kPackedQueries && !call.latent) return fold(block);
        if (call.latent)
            turn_keys(block.values, key_dim, scratch.keys);
        else
            pack_keys(block.keys, key_dim, scratch.keys);
        pack_values<kValueVectors>(block.values, step, 0, paneled, low, high, scratch.values);
        pack_values<1>(block.values, step, paneled, whole, low, high, scratch.values);
        const int runs = (to - from + kQueryRun - 1) / kQueryRun;
        if (!call.latent)
            while_scoring = Ahead(block.next_keys, kKvBlock * key_dim, runs * (kKvBlock / kLanes / kKeyVectors));
        while_summing = Ahead(next_values, kKvBlock * step, runs * ((value_dim + width - 1) / width));
        fold(Packed{scratch.keys, scratch.values, key_dim});
    }
};

template <class T>
void attend(const SegmentCall& call) {
    const QueryTile& tile = call.tile;
    const TileStates<float> states(call.states, tile);
    const int queries = tile.rows * tile.group;
    for_lanes(queries, [&](int t, int count) {
        store_some(states.m + t, splat(-__builtin_inff()), count);
        store_some(states.l + t, splat(0.0f), count);
    });
    for (int i = 0; i < queries * states.o_step; i += kLanes) store(states.o + i, splat(0.0f));
    const std::int64_t begin = call.segment * kKvSegment, end = begin + kKvSegment,
                       oldest = call.reach.first(call.position), newest = call.position + tile.rows - 1;
    const std::int64_t last = (newest < end ? newest : end - 1) / kKvBlock;
    const int value_stride = call.latent ? tile.key_dim : tile.value_dim;
    for (std::int64_t block = (oldest > begin ? oldest : begin) / kKvBlock; block <= last; ++block) {
        const std::byte *at = call.blocks[block], *next = call.blocks[block < last ? block + 1 : block];
        BlockFold{call, states, FoldScratch(call.scratch, tile), block * kKvBlock}.run(
            InPlace<T>{reinterpret_cast<const T*>(at + call.k_offset), reinterpret_cast<const T*>(at + call.v_offset),
                       reinterpret_cast<const T*>(next + call.k_offset), value_stride},
            reinterpret_cast<const T*>(next + call.v_offset));
    }
}

void merge(float* total, const float* states, const QueryTile& tile) {
    const TileStates<float> into(total, tile);
    const TileStates<const float> from(states, tile);
    for_lanes(tile.rows * tile.group, [&](int t, int count) {
        const F32 m = load_some(into.m + t, count), other = load_some(from.m + t, count), raised = max(m, other);
        const F32 keep = exp(sub(m, raised)), take = exp(sub(other, raised));
        store_some(into.m + t, raised, count);
        store_some(into.l + t, fma(load_some(into.l + t, count), keep, mul(load_some(from.l + t, count), take)), count);
        alignas(64) float keeps[kLanes], takes[kLanes];
        store(keeps, keep);
        store(takes, take);
        for (int n = 0; n < count; ++n) {
            float* o = into.o + (t + n) * into.o_step;
            const float* other_o = from.o + (t + n) * from.o_step;
            for (int i = 0; i < into.o_step; i += kLanes)
                store(o + i, fma(load(o + i), splat(keeps[n]), mul(load(other_o + i), splat(takes[n]))));
        }
    });
}

void finish(const float* total, const QueryTile& tile, float* y, std::int64_t y_stride) {
    const TileStates<const float> states(total, tile);
    for (int row = 0; row < tile.rows; ++row)
        for (int head = 0; head < tile.group; ++head) {
            const int t = row * tile.group + head;
            float* to = y + row * y_stride + head * tile.value_dim;
            const F32 l = splat(states.l[t]);
            for_lanes(tile.value_dim, [&](int i, int count) {
                store_some(to + i, div(load(states.o + t * states.o_step + i), l), count);
            });
        }
}

template <class T>
void narrow(const float* x, std::byte* y, int n) {
    for_lanes(n, [&](int i, int count) { store_narrow(reinterpret_cast<T*>(y) + i, load_some(x + i, count), count); });
}
