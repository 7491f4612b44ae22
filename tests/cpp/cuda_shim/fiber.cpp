#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Keeps what a function must keep, takes the other stack, and returns to where that one called.
extern "C" void moestro_shim_switch(void** keep, void* take);
asm(R"(
.text
.type moestro_shim_switch, @function
moestro_shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size moestro_shim_switch, . - moestro_shim_switch
)");

namespace moestro::cuda_shim {

namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 << 10;  // instrumented frames are large
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif
constexpr std::size_t kGuardBytes = 4096;

thread_local Fiber* running = nullptr;

}  // namespace

Fiber::Fiber() {
    void* const memory = mmap(nullptr, kGuardBytes + kStackBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stack_ = static_cast<std::byte*>(memory) + kGuardBytes;
    if (mprotect(stack_, kStackBytes, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
}

Fiber::~Fiber() {
    munmap(stack_ - kGuardBytes, kGuardBytes + kStackBytes);
}

void Fiber::start(void (*body)()) {
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack_, kStackBytes);  // frames of one that never ended
    fake_ = nullptr;
#endif
    body_ = body;
    ended_ = false;
    // Six registers, then where to return to; a function begins 8 bytes off a multiple of 16.
    auto** const top = reinterpret_cast<void**>(stack_ + kStackBytes - 16);
    for (int i = -6; i < 2; ++i) top[i] = nullptr;
    top[0] = reinterpret_cast<void*>(&Fiber::enter);
    at_ = top - 6;
}

bool Fiber::resume() {
    running = this;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&resumer_fake_, stack_, kStackBytes);
#endif
    moestro_shim_switch(&resumer_, at_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(resumer_fake_, nullptr, nullptr);
#endif
    running = nullptr;
    return !ended_;
}

void Fiber::pause() {
    running->leave(false);
}

void Fiber::leave([[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake_, resumer_stack_, resumer_bytes_);
#endif
    moestro_shim_switch(&at_, resumer_);
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_, &resumer_stack_, &resumer_bytes_);
#endif
}

void Fiber::enter() {
    Fiber* const self = running;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &self->resumer_stack_, &self->resumer_bytes_);
#endif
    self->body_();
    self->ended_ = true;
    self->leave(true);
    __builtin_unreachable();
}

}  // namespace moestro::cuda_shim
