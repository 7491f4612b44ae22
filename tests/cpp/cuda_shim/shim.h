// What tests turn of the CUDA runtime for a processor. Of a real one they turn nothing, and go on.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

namespace moestro::cuda_shim {

// Who runs next, of the threads of a block that can, and of the blocks that began: by turns, always the latest unless
// it only waits, or any, also in the midst of a turn. Blocks begin as they are numbered, but where only one runs at
// once they do in this order too. Asynchronous copies are over as late as possible, at once, or either.
enum class Order : std::uint8_t { forward, reverse, random };

struct Options {
    std::size_t memory = std::size_t{1} << 30;  // of the device
    std::size_t context = 0;                    // of it, taken by the first use
    int devices = 1;
    int major = 8, minor = 0;  // compute capability
    int multiprocessors = 4;
    int driver = 13000, runtime = 13000;
    cudaError_t unusable = cudaSuccess;  // what every call answers, as without a driver
    Order order = Order::forward;
    std::uint64_t seed = 1;
    std::size_t blocks_at_once = 1;  // of a launch
    // What goes wrong. The n-th from now on, counted from 1; 0: none.
    int failed_malloc = 0, failed_host_alloc = 0;  // and all after it
    int refused_copy = 0;                          // cudaMemcpyAsync itself answers cudaErrorInvalidValue
    int failed_copy = 0;    // it fails when its turn comes; all that follows, of all streams, fails as it did
    int failed_launch = 0;  // the launch itself answers cudaErrorLaunchFailure
};

#ifdef MOESTRO_CUDA_SHIM
// Another device in another process, as it were: what was under way is forgotten, errors too. Memory stays what it was.
void reset(const Options& options = {});
const Options& options();
// How threads run from now on.
void set_order(Order order, std::uint64_t seed = 1);
void set_blocks_at_once(std::size_t blocks);
std::size_t launches();  // of kernels, graphs' included, that have run since reset()
bool nothing_left();     // no memory, stream, event or graph that was made and not destroyed
#else
inline void reset(const Options& = {}) {}
inline void set_order(Order, std::uint64_t = 1) {}
inline void set_blocks_at_once(std::size_t) {}
#endif

}  // namespace moestro::cuda_shim
