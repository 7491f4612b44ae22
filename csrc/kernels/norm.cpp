#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/types.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {
constexpr std::int64_t kFloatsPerItem = 4096;  // elementwise work worth a claim
}

void rms_norm(Compute& compute, const float* x, const float* weight, float eps, int rows, int n, float* y) {
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

void add(Compute& compute, float* x, const float* y, std::int64_t count) {
    compute.pool().parallel_for(ceil_div(count, kFloatsPerItem), [&](std::int64_t item, int) {
        const std::int64_t begin = item * kFloatsPerItem;
        compute.table().add(x + begin, y + begin, static_cast<int>(std::min(kFloatsPerItem, count - begin)));
    });
}

}  // namespace moestro::kernels
