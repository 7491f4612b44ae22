// Keys and values into their blocks.
#include "kernels/cuda/kv_types.cuh"
#include "kernels/cuda/launching.cuh"

namespace moestro::kernels::cuda {

namespace {

constexpr int kThreads = 128;

template <class Kv>
__device__ void append(const float* from, int n, typename Kv::Element* to, int step, std::uint32_t* fault) {
    bool finite = true;
    for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
        const float value = from[i];
        finite = finite && as_float(as_bits(value) & 0x7fffffffu) < Kv::bound();
        to[std::int64_t{i} * step] = Kv::narrow(value);
    }
    if (!finite) leave_fault(fault, Fault::kv);
}

// A block per row and head.
template <class Kv>
__global__ void __launch_bounds__(kThreads)
    append_row(KvLayout layout, KvPlaces places, const float* k, const float* v, const std::int64_t* positions,
               std::byte* const* blocks, std::size_t offset, std::uint32_t* fault) {
    using Element = typename Kv::Element;
    const std::int64_t row = blockIdx.x, head = blockIdx.y, at = row * layout.kv_heads + head;
    const int column = static_cast<int>(positions[row] % kKvBlock);
    Element* part = reinterpret_cast<Element*>(blocks[row] + offset);
    Element* keys = part + head * places.key_step;
    append<Kv>(k + at * layout.key_dim, layout.key_dim, keys + (layout.latent ? column * layout.key_dim : column),
               layout.latent ? 1 : kKvBlock, fault);
    if (layout.latent) return;
    append<Kv>(v + at * layout.value_dim, layout.value_dim,
               part + places.values + head * places.value_step + column * layout.value_dim, 1, fault);
}

}  // namespace

Status kv_append(const KvLayout& layout, const float* k, const float* v, const std::int64_t* positions,
                 std::byte* const* blocks, std::size_t offset, int rows, std::uint32_t* fault, Stream stream) {
    if (rows == 0) return 0;
    const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(layout.kv_heads));
    return for_kv_type(layout.type, [&]<class Kv>() {
        return launch(append_row<Kv>, grid, dim3(kThreads), 0, stream, layout, KvPlaces(layout), k, v, positions,
                      blocks, offset, fault);
    });
}

}  // namespace moestro::kernels::cuda
