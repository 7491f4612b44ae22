// A stack of its own for a function that can pause. All of an operating system's thread.
#pragma once

#include <cstddef>

namespace moestro::cuda_shim {

class Fiber {
  public:
    Fiber();
    ~Fiber();
    Fiber(Fiber&& other) = delete;

    // From its beginning at the next resume(). What it was doing is forgotten.
    void start(void (*body)());
    // Runs it until it pauses or ends. False: it has ended.
    bool resume();
    // Of the fiber that runs: back to who resumed it.
    static void pause();

  private:
    static void enter();
    void leave(bool for_good);

    std::byte* stack_ = nullptr;
    void* at_ = nullptr;       // its stack pointer while it does not run
    void* resumer_ = nullptr;  // the other's while it runs
    void (*body_)() = nullptr;
    bool ended_ = true;
    // Of AddressSanitizer: what it keeps of the two stacks.
    void *fake_ = nullptr, *resumer_fake_ = nullptr;
    const void* resumer_stack_ = nullptr;
    std::size_t resumer_bytes_ = 0;
};

}  // namespace moestro::cuda_shim
