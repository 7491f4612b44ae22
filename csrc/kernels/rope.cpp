// Rotary position embedding. The tables need cosines and sines that are the same everywhere, so no libm: the angle (a
// binary32) is reduced by multiples of pi/2 held in three parts, one polynomial each is evaluated in binary64, and the
// result rounds once to binary32. The polynomials are fdlibm's minimax ones on [-pi/4, pi/4]. Every binary32 angle up
// to 2^20 has been compared with an 80-bit evaluation: all are correctly rounded.
#include <algorithm>
#include <bit>
#include <cstdint>

#include "base/error.h"
#include "base/thread_pool.h"
#include "base/types.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {

constexpr float kMostAngle = 0x1p20f;

// angle = quadrant * pi/2 + (high + low), |high| <= pi/4 and a little, |low| below half an ulp of high.
struct Reduced {
    double high, low;
    int quadrant;
};

Reduced reduce(float angle) {
    constexpr double two_over_pi = 6.36619772367581382433e-01;
    constexpr double half_pi_1 = 1.57079632673412561417e+00;  // first 33 bits of pi/2: products with n are exact
    constexpr double half_pi_2 = 6.07710050630396597660e-11;  // next 33 bits
    constexpr double half_pi_3 = 2.02226624879595063154e-21;  // the rest
    constexpr double magic = 6755399441055744.0;              // 1.5 * 2^52: adding it rounds to an integer
    const double exact = angle;
    const double n = (exact * two_over_pi + magic) - magic;
    const double first = exact - n * half_pi_1;  // exact
    const double second = n * half_pi_2;         // exact
    const double rest = n * half_pi_3;
    const double partial = first - second;
    const double lost = ((first - partial) - second) - rest;
    const double high = partial + lost;
    return {high, (partial - high) + lost, static_cast<int>(static_cast<std::int64_t>(n) & 3)};
}

// A value as the unevaluated sum of a binary64 and a much smaller one.
struct Sum {
    double large, small;
};

Sum sine(double x, double low) {
    constexpr double s1 = -1.66666666666666324348e-01, s2 = 8.33333333332248946124e-03,
                     s3 = -1.98412698298579493134e-04, s4 = 2.75573137070700676789e-06,
                     s5 = -2.50507602534068634195e-08, s6 = 1.58969099521155010221e-10;
    const double z = x * x, cube = z * x;
    const double r = s2 + z * (s3 + z * (s4 + z * (s5 + z * s6)));
    return {x, cube * s1 - (z * (0.5 * low - cube * r) - low)};
}

Sum cosine(double x, double low) {
    constexpr double c1 = 4.16666666666666019037e-02, c2 = -1.38888888888741095749e-03, c3 = 2.48015872894767294178e-05,
                     c4 = -2.75573143513906633035e-07, c5 = 2.08757232129817482790e-09,
                     c6 = -1.13596475577881948265e-11;
    const double z = x * x;
    const double r = z * (c1 + z * (c2 + z * (c3 + z * (c4 + z * (c5 + z * c6)))));
    const double half = 0.5 * z, top = 1.0 - half;
    return {top, ((1.0 - top) - half) + (z * r - x * low)};
}

// Rounds the sum once. Going through a binary64 would round twice: where that lands exactly between two binary32
// values, the part it dropped must decide.
float round_once(Sum value) {
    const double sum = value.large + value.small;
    const double dropped = value.small - (sum - value.large);
    auto bits = std::bit_cast<std::int64_t>(sum);
    const bool between = (bits & 0x1fffffff) == 0x10000000;
    if (between && dropped != 0) bits += (dropped > 0) == (sum > 0) ? 1 : -1;
    return static_cast<float>(std::bit_cast<double>(bits));
}

void cos_sin(float angle, float& cos, float& sin) {
    const Reduced at = reduce(angle);
    const float c = round_once(cosine(at.high, at.low)), s = round_once(sine(at.high, at.low));
    const bool swapped = (at.quadrant & 1) != 0;
    const float cos_magnitude = swapped ? s : c, sin_magnitude = swapped ? c : s;
    cos = at.quadrant == 1 || at.quadrant == 2 ? -cos_magnitude : cos_magnitude;
    sin = at.quadrant >= 2 ? -sin_magnitude : sin_magnitude;
}

}  // namespace

void rope_table(const std::int64_t* positions, const float* inv_freq, bool per_row, float attention_factor, int rows,
                int half, float* cos, float* sin) {
    const DefaultFloatEnvironment environment;
    for (std::int64_t row = 0; row < rows; ++row) {
        const float position = static_cast<float>(positions[row]);
        const float* frequencies = inv_freq + (per_row ? row * half : 0);
        for (std::int64_t i = 0; i < half; ++i) {
            const float angle = position * frequencies[i];
            require(angle >= -kMostAngle && angle <= kMostAngle, ErrorKind::usage, "position ", positions[row],
                    " makes a rotary angle of ", angle, ": angles up to 2^20 are supported");
            cos_sin(angle, cos[row * half + i], sin[row * half + i]);
            cos[row * half + i] *= attention_factor;
            sin[row * half + i] *= attention_factor;
        }
    }
}

void rope(Compute& compute, const RopeJob& job, const float* cos, const float* sin) {
    MOESTRO_CHECK(job.first >= 0 && job.first + 2 * job.half <= job.head_dim);
    if (Accelerator* const there = compute.accelerator()) return there->rope(job, cos, sin);
    const auto rotate = compute.table().rotate[static_cast<std::size_t>(job.pairs)];
    const std::int64_t rows_per_item = std::max<std::int64_t>(1, 4096 / std::max(1, job.heads * job.head_dim));
    compute.pool().parallel_for(ceil_div(job.rows, rows_per_item), [&](std::int64_t item, int) {
        const std::int64_t end = std::min<std::int64_t>(job.rows, (item + 1) * rows_per_item);
        for (std::int64_t row = item * rows_per_item; row < end; ++row)
            for (std::int64_t head = 0; head < job.heads; ++head)
                rotate(job.x + (row * job.heads + head) * job.head_dim + job.first, cos + row * job.half,
                       sin + row * job.half, job.half);
    });
}

}  // namespace moestro::kernels
