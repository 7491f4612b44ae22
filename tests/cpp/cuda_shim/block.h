// A grid on a processor: some of its blocks at once, by turns, their threads as fibers. A thread runs until it must
// wait, so what is not ordered by a barrier happens in the order of the schedule, and tests ask for several (shim.h). A
// block's turn is over when its threads have met at a barrier, or all that can run wait for others.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

namespace moestro::cuda_shim {

// What hardware would hang on, or not notice.
class KernelError : public std::logic_error {
  public:
    using std::logic_error::logic_error;
};

struct Shape {
    unsigned x = 1, y = 1, z = 1;
    std::size_t count() const { return std::size_t{x} * y * z; }
};

// Runs a kernel: `thread` once for every thread of the grid. Throws KernelError; all is then abandoned.
void run_grid(const Shape& grid, const Shape& block, std::size_t shared_bytes, const std::function<void()>& thread);

// ---- from inside of a kernel ----------------------------------------------------------------------------------------
// Threads meet: the last one to come calls `meeting` with what all of them brought, in their order, null for those who
// are not asked. Who brings another meeting, or has ended, makes the others wait for ever, which is an error.
using Meeting = void (*)(void* const* brought, unsigned count);
void meet_block(Meeting meeting, void* brought);
void meet_warp(unsigned mask, Meeting meeting, void* brought);
unsigned lane();
// Lets others run, of other blocks too: in a loop that waits for what they write. watched: the word, if it is known.
void let_others(const std::uint32_t* watched);
// Ends the turn where the order is random, now and then: what the thread did can be seen, what it does next comes late.
void step_aside();
std::byte* dynamic_shared();

// Copies to shared memory that may be over when they are given or as late as when they are waited for.
void later_copy(void* to, const void* from, std::size_t bytes);
void later_commit();
void later_wait(unsigned still_under_way);

}  // namespace moestro::cuda_shim
