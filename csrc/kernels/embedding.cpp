#include <cstring>

#include "kernels/ops.h"
#include "quant/convert.h"

namespace moestro::kernels {

namespace {

template <class T>
void widen_all(const std::byte* source, std::int64_t count, float* y) {
    for (std::int64_t i = 0; i < count; ++i) {
        T value;
        std::memcpy(&value, source + static_cast<std::size_t>(i) * sizeof value, sizeof value);
        y[i] = quant::widen(value);
    }
}

}  // namespace

void widen(const std::byte* source, quant::SourceType type, std::int64_t count, float* y) {
    switch (type) {
        case quant::SourceType::f32:
            std::memcpy(y, source, static_cast<std::size_t>(count) * sizeof(float));
            break;
        case quant::SourceType::bf16:
            widen_all<quant::Bf16>(source, count, y);
            break;
        case quant::SourceType::f16:
            widen_all<quant::F16>(source, count, y);
            break;
    }
}

}  // namespace moestro::kernels
