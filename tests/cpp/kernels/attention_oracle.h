// docs/numerics.md "Attention", one query at a time and one operation after the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/kv.h"

namespace moestro::testing {

inline float book_exp(float x) {
    if (x == -std::numeric_limits<float>::infinity()) return 0;
    const float clamped = std::min(89.0f, std::max(-104.0f, x));
    const float n = std::nearbyint(clamped * 1.44269504f);
    float r = std::fma(n, -0.693359375f, clamped);
    r = std::fma(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    for (const float c : {1.3981999507e-3f, 8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f})
        p = std::fma(p, r, c);
    p = std::fma(p, r * r, r) + 1.0f;
    const int whole = static_cast<int>(n), half = static_cast<int>(std::floor(n / 2));
    return p * std::ldexp(1.0f, half) * std::ldexp(1.0f, whole - half);
}

inline float book_tanh(float x) {
    if (std::fabs(x) < 0.625f) {
        const float z = x * x;
        float p = -5.70498872745e-3f;
        for (const float c : {2.06390887954e-2f, -5.37397155531e-2f, 1.33314422036e-1f, -3.33332819422e-1f})
            p = std::fma(p, z, c);
        return std::fma(p * z, x, x);
    }
    const float e = book_exp(-2.0f * std::fabs(x)), y = (1.0f - e) / (1.0f + e);
    return x < 0 ? -y : y;
}

struct BookState {
    float m = -std::numeric_limits<float>::infinity(), l = 0;
    std::vector<float> o;
};

// Keys [positions][key_dim] and values [positions][value_dim] of one KV head of one sequence, rounded to the KV type.
struct BookHead {
    const std::vector<float>& keys;
    const std::vector<float>& values;
    int key_dim, value_dim;
    float scale;
    float softcap = 0;  // 0 is none

    void fold_block(BookState& state, const float* q, std::int64_t begin, std::int64_t end) const {
        std::vector<float> weights;
        float raised = state.m;
        for (std::int64_t j = begin; j < end; ++j) {
            float dot = 0;
            for (int i = 0; i < key_dim; ++i)
                dot = std::fma(q[i], keys[static_cast<std::size_t>(j * key_dim + i)], dot);
            const float score = scale * dot;
            weights.push_back(softcap > 0 ? softcap * book_tanh(score / softcap) : score);
            raised = std::max(raised, weights.back());
        }
        float lanes[16] = {};
        for (std::int64_t j = begin; j < end; ++j) {
            float& weight = weights[static_cast<std::size_t>(j - begin)];
            weight = book_exp(weight - raised);
            lanes[j % 16] += weight;
        }
        for (int half = 8; half; half /= 2)
            for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
        const float a = book_exp(state.m - raised);
        state.l = std::fma(state.l, a, lanes[0]);
        state.m = raised;
        for (int i = 0; i < value_dim; ++i) {
            float& o = state.o[static_cast<std::size_t>(i)];
            o *= a;
            for (std::int64_t j = begin; j < end; ++j)
                o = std::fma(weights[static_cast<std::size_t>(j - begin)],
                             values[static_cast<std::size_t>(j * value_dim + i)], o);
        }
    }

    BookState segment(const float* q, std::int64_t begin, std::int64_t end) const {
        BookState state;
        state.o.assign(static_cast<std::size_t>(value_dim), 0.0f);
        while (begin < end) {
            const std::int64_t next = std::min(end, begin / kernels::kKvBlock * kernels::kKvBlock + kernels::kKvBlock);
            fold_block(state, q, begin, next);
            begin = next;
        }
        return state;
    }

    static void merge(BookState& total, const BookState& state) {
        const float raised = std::max(total.m, state.m);
        const float keep = book_exp(total.m - raised), take = book_exp(state.m - raised);
        total.m = raised;
        total.l = std::fma(total.l, keep, state.l * take);
        for (std::size_t i = 0; i < total.o.size(); ++i) total.o[i] = std::fma(total.o[i], keep, state.o[i] * take);
    }

    // The first position that one at `position` sees.
    static std::int64_t lowest(const kernels::Reach& reach, std::int64_t position) {
        std::int64_t low = reach.window ? std::max<std::int64_t>(0, position - reach.window + 1) : 0;
        while (reach.chunk && low / reach.chunk != position / reach.chunk) ++low;
        return low;
    }

    // The output of a query at `position`; sink null is none.
    std::vector<float> attend(const float* q, std::int64_t position, const kernels::Reach& reach,
                              const float* sink) const {
        std::int64_t low = lowest(reach, position);
        BookState total;
        bool started = sink != nullptr;
        if (sink) total = {*sink, 1.0f, std::vector<float>(static_cast<std::size_t>(value_dim), 0.0f)};
        while (low <= position) {
            const std::int64_t next =
                std::min(position + 1, low / kernels::kKvSegment * kernels::kKvSegment + kernels::kKvSegment);
            const BookState state = segment(q, low, next);
            if (started)
                merge(total, state);
            else
                total = state;
            started = true;
            low = next;
        }
        for (float& o : total.o) o /= total.l;
        return total.o;
    }
};

}  // namespace moestro::testing
