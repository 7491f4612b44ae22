#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/types.h"
#include "kernels/accelerator.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {
constexpr std::int64_t kFloatsPerItem = 4096;  // elementwise work worth a claim
}

void rms_norm(Compute& compute, const float* x, const float* weight, float eps, int rows, int n, float* y) {
    if (Accelerator* const there = compute.accelerator()) return there->rms_norm(x, weight, eps, rows, n, y);
    const std::int64_t rows_per_item = std::max<std::int64_t>(1, kFloatsPerItem / std::max(n, 1));
    compute.pool().parallel_for(ceil_div(rows, rows_per_item), [&](std::int64_t item, int) {
        const std::int64_t end = std::min<std::int64_t>(rows, (item + 1) * rows_per_item);
        for (std::int64_t row = item * rows_per_item; row < end; ++row) {
            const float sum = compute.table().sum_of_squares(x + row * n, n);
            require(std::isfinite(sum), ErrorKind::numeric,
                    "the sum of squares that rms_norm divides by is not finite (row ", row, " of ", rows, ", ", n,
                    " columns)");
            const float r = 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
            compute.table().scale_by(x + row * n, r, weight, y + row * n, n);
        }
    });
}

void layer_norm(Compute& compute, const float* x, const float* weight, const float* bias, float eps, int rows, int n,
                float* y) {
    if (Accelerator* const there = compute.accelerator()) return there->layer_norm(x, weight, bias, eps, rows, n, y);
    const Table& table = compute.table();
    const std::int64_t rows_per_item = std::max<std::int64_t>(1, kFloatsPerItem / std::max(n, 1));
    compute.pool().parallel_for(ceil_div(rows, rows_per_item), [&](std::int64_t item, int) {
        const std::int64_t end = std::min<std::int64_t>(rows, (item + 1) * rows_per_item);
        for (std::int64_t row = item * rows_per_item; row < end; ++row) {
            float* out = y + row * n;
            const float mean = table.sum(x + row * n, n) / static_cast<float>(n);
            const float squares = table.centre(x + row * n, mean, out, n);
            require(std::isfinite(squares), ErrorKind::numeric,
                    "the variance that layer_norm divides by is not finite (row ", row, " of ", rows, ", ", n,
                    " columns)");
            table.scale_by(out, 1.0f / std::sqrt(squares / static_cast<float>(n) + eps), weight, out, n);
            if (bias) table.add(out, bias, n);
        }
    });
}

namespace {

// Calls body(begin, n) for pieces of `count` floats.
template <class Body>
void elementwise(Compute& compute, std::int64_t count, const Body& body) {
    compute.pool().parallel_for(ceil_div(count, kFloatsPerItem), [&](std::int64_t item, int) {
        const std::int64_t begin = item * kFloatsPerItem;
        body(begin, static_cast<int>(std::min(kFloatsPerItem, count - begin)));
    });
}

// x *= factor. The compiler's own vectors: one product each, nothing to reorder.
void multiply(float* x, float factor, int n) {
    for (int i = 0; i < n; ++i) x[i] *= factor;
}

}  // namespace

void add(Compute& compute, float* x, const float* y, std::int64_t count) {
    if (Accelerator* const there = compute.accelerator()) return there->add(x, y, count);
    elementwise(compute, count, [&](std::int64_t at, int n) { compute.table().add(x + at, y + at, n); });
}

void add_scaled(Compute& compute, float* x, float factor, const float* y, std::int64_t count) {
    if (Accelerator* const there = compute.accelerator()) return there->add_scaled(x, factor, y, count);
    elementwise(compute, count, [&](std::int64_t at, int n) { compute.table().axpy(factor, y + at, x + at, n); });
}

void scale(Compute& compute, float* x, float factor, std::int64_t count) {
    if (Accelerator* const there = compute.accelerator()) return there->scale(x, factor, count);
    elementwise(compute, count, [&](std::int64_t at, int n) { multiply(x + at, factor, n); });
}

void sigmoid_mul(Compute& compute, float* x, const float* gate, std::int64_t count) {
    if (Accelerator* const there = compute.accelerator()) return there->sigmoid_mul(x, gate, count);
    elementwise(compute, count, [&](std::int64_t at, int n) { compute.table().sigmoid_mul(x + at, gate + at, n); });
}

void clamp(Compute& compute, float* x, float bound, std::int64_t count) {
    if (Accelerator* const there = compute.accelerator()) return there->clamp(x, bound, count);
    elementwise(compute, count, [&](std::int64_t at, int n) { compute.table().clamp(x + at, bound, n); });
}

void softcap(Compute& compute, float* x, float cap, std::int64_t count) {
    if (Accelerator* const there = compute.accelerator()) return there->softcap(x, cap, count);
    elementwise(compute, count, [&](std::int64_t at, int n) { compute.table().softcap(x + at, cap, n); });
}

void scale_rows(Compute& compute, float* x, const float* factors, int rows, int n) {
    if (Accelerator* const there = compute.accelerator()) return there->scale_rows(x, factors, rows, n);
    compute.pool().parallel_for(rows, [&](std::int64_t row, int) { multiply(x + row * n, factors[row], n); });
}

void scale_rows_by_sigmoid(Compute& compute, float* x, const float* logits, int rows, int n) {
    if (Accelerator* const there = compute.accelerator()) return there->scale_rows_by_sigmoid(x, logits, rows, n);
    compute.pool().parallel_for(rows, [&](std::int64_t row, int) {
        float factor = 0;
        compute.table().sigmoid(logits + row, 1, &factor);
        multiply(x + row * n, factor, n);
    });
}

void copy_rows(Compute& compute, const float* from, std::int64_t from_step, float* to, std::int64_t to_step,
               std::int64_t rows, int count) {
    if (Accelerator* const there = compute.accelerator()) {
        const auto bytes = [](std::int64_t floats) { return static_cast<std::size_t>(floats) * sizeof(float); };
        return there->copy_rows(to, bytes(to_step), from, bytes(from_step), static_cast<std::size_t>(rows),
                                bytes(count));
    }
    for (std::int64_t row = 0; row < rows; ++row) std::copy_n(from + row * from_step, count, to + row * to_step);
}

}  // namespace moestro::kernels
