#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "base/error.h"
#include "base/types.h"
#include "kernels/ops.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {

constexpr int kFloatsPerItem = 8192;

// Element i of `from` goes to column `column` of row i of a [n][64] array.
template <class T>
void scatter(const std::byte* from, int n, std::byte* to, std::int64_t column) {
    for (int i = 0; i < n; ++i)
        std::memcpy(to + (static_cast<std::size_t>(i) * kKvBlock + static_cast<std::size_t>(column)) * sizeof(T),
                    from + static_cast<std::size_t>(i) * sizeof(T), sizeof(T));
}

void write_key(const Table& table, const KvLayout& layout, const float* k, std::int64_t column, std::byte* keys) {
    constexpr int kAtOnce = 256;
    alignas(64) std::byte rounded[kAtOnce * sizeof(float)];
    const std::size_t size = bytes(layout.type);
    for (int begin = 0; begin < layout.key_dim; begin += kAtOnce) {
        const int count = std::min(kAtOnce, layout.key_dim - begin);
        table.narrow[static_cast<std::size_t>(layout.type)](k + begin, rounded, count);
        std::byte* to = keys + static_cast<std::size_t>(begin) * kKvBlock * size;
        (size == 4 ? scatter<std::uint32_t> : scatter<std::uint16_t>)(rounded, count, to, column);
    }
}

// Below these, in magnitude, a value is finite after rounding to the type. An infinite key would silently drop out of
// the softmax, or drown every other.
constexpr float kFinite[] = {std::numeric_limits<float>::infinity(), 0x1.ffp127f, 65520.0f};

bool stays_finite(const float* x, int n, KvType type) {
    bool finite = true;
    for (int i = 0; i < n; ++i) finite &= std::fabs(x[i]) < kFinite[static_cast<std::size_t>(type)];
    return finite;
}

}  // namespace

std::size_t bytes(KvType type) {
    return type == KvType::f32 ? 4 : 2;
}

std::size_t KvLayout::block_bytes() const {
    const std::size_t elements =
        static_cast<std::size_t>(kv_heads) * static_cast<std::size_t>(key_dim + (latent ? 0 : value_dim)) * kKvBlock;
    return round_up(elements * bytes(type), 64);
}

void kv_append(Compute& compute, const KvLayout& layout, const float* k, const float* v, const std::int64_t* positions,
               std::byte* const* blocks, int rows) {
    const Table& table = compute.table();
    const auto narrow = table.narrow[static_cast<std::size_t>(layout.type)];
    const auto bytes_of = [&](int dim) { return static_cast<std::size_t>(dim) * bytes(layout.type); };
    const auto check = [&](const float* x, int n, std::int64_t row) {
        require(stays_finite(x, n, layout.type), ErrorKind::numeric, "attention: a key or value of position ",
                positions[row], " is not finite in the KV cache's type; kv_dtype='f32' has the widest range");
    };
    const auto append = [&](std::int64_t row, std::int64_t head) {
        const std::int64_t at = row * layout.kv_heads + head, column = positions[row] % kKvBlock;
        const float* key = k + at * layout.key_dim;
        std::byte* keys = blocks[row] + static_cast<std::size_t>(head) * bytes_of(layout.key_dim) * kKvBlock;
        check(key, layout.key_dim, row);
        if (layout.latent)
            return narrow(key, keys + static_cast<std::size_t>(column) * bytes_of(layout.key_dim), layout.key_dim);
        const float* value = v + at * layout.value_dim;
        check(value, layout.value_dim, row);
        write_key(table, layout, key, column, keys);
        std::byte* values =
            blocks[row] + kKvBlock * (static_cast<std::size_t>(layout.kv_heads) * bytes_of(layout.key_dim) +
                                      static_cast<std::size_t>(head) * bytes_of(layout.value_dim));
        narrow(value, values + static_cast<std::size_t>(column) * bytes_of(layout.value_dim), layout.value_dim);
    };
    // One head's rows after the other's, and many to an item: neighbouring positions share the cache lines of keys, and
    // two threads that write them in turn hand every line to and fro.
    const std::int64_t all = static_cast<std::int64_t>(rows) * layout.kv_heads,
                       per_item = std::max(1, kFloatsPerItem / std::max(1, layout.key_dim));
    compute.pool().parallel_for(ceil_div(all, per_item), [&](std::int64_t item, int) {
        const std::int64_t end = std::min(all, (item + 1) * per_item);
        for (std::int64_t at = item * per_item; at < end; ++at) append(at % rows, at / rows);
    });
}

}  // namespace moestro::kernels
