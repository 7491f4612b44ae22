// The operations of kernels/ops.h where they run elsewhere than on the processor. A Compute that has an accelerator
// passes them on to it; what they mean, to the bit, stays docs/numerics.md.
//
// All pointers are to memory that the accelerator reaches: what it allocated, or what was put there. Work is done in
// the order of the calls, and none of it is waited for: only settle() waits. Numeric faults surface there.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>

#include "kernels/ops.h"

namespace moestro::kernels {

// One thread at a time.
class Accelerator {
  public:
    virtual ~Accelerator() = default;

    // ---- memory -----------------------------------------------------------------------------------------------------
    // Unspecified contents; given back when all copies are gone and the work that was asked for until then is done.
    // Throws Error(budget).
    virtual std::shared_ptr<std::byte> allocate(std::size_t bytes) = 0;
    // Memory of the host that the accelerator may reach too: where it does not, reachable() says so.
    virtual std::shared_ptr<std::byte> allocate_host(std::size_t bytes) = 0;
    virtual bool reachable(const void* host) const = 0;  // of allocate_host
    // To the accelerator; the source may change when this returns.
    virtual void put(void* to, const void* from, std::size_t bytes) = 0;
    // To the host, where it is after settle().
    virtual void get(void* to, const void* from, std::size_t bytes) = 0;
    virtual void copy(void* to, const void* from, std::size_t bytes) = 0;
    // `rows` rows of `bytes`, that lie a step apart.
    virtual void copy_rows(void* to, std::size_t to_step, const void* from, std::size_t from_step, std::size_t rows,
                           std::size_t bytes) = 0;
    virtual void zero(void* to, std::size_t bytes) = 0;
    // Waits for all of its work. Throws what went wrong since the last time: Error(numeric) for what was not finite.
    virtual void settle() = 0;

    // ---- repeats ----------------------------------------------------------------------------------------------------
    // A run of calls that is the same whenever its key is: same calls, same arguments, host arrays with the same
    // contents (get() and put() excepted, whose host memory stays where it is). True: it was done again, as recorded,
    // and the calls must not be made. False: they must, and end_repeat() tells when all were.
    struct Repeat {
        const void *what = nullptr, *where = nullptr;
        std::int64_t rows = 0, reach = 0;
        auto operator<=>(const Repeat&) const = default;
    };
    virtual bool repeat(const Repeat& key) = 0;
    virtual void end_repeat(bool whole) noexcept = 0;  // whole: all calls were made and none failed

    // ---- operations: of the same names in kernels/ops.h -------------------------------------------------------------
    virtual void linear(const Activations& x, std::span<const LinearJob> jobs) = 0;
    virtual void linear_by_head(const Activations& x, const HeadMatrices& weights, float* y, std::int64_t ldy) = 0;
    virtual void experts(const Activations& x, std::span<const ExpertJob> jobs) = 0;  // a job's rows: of the host
    // outputs, weights: of the host; what outputs point to is reached.
    virtual void combine(std::span<const float* const> outputs, const float* weights, int rows, int top_k, int hidden,
                         float* y) = 0;
    virtual void rms_norm(const float* x, const float* weight, float eps, int rows, int n, float* y) = 0;
    virtual void layer_norm(const float* x, const float* weight, const float* bias, float eps, int rows, int n,
                            float* y) = 0;
    virtual void add(float* x, const float* y, std::int64_t count) = 0;
    virtual void add_scaled(float* x, float factor, const float* y, std::int64_t count) = 0;
    virtual void scale(float* x, float factor, std::int64_t count) = 0;
    virtual void sigmoid_mul(float* x, const float* gate, std::int64_t count) = 0;
    virtual void clamp(float* x, float bound, std::int64_t count) = 0;
    virtual void softcap(float* x, float cap, std::int64_t count) = 0;
    virtual void scale_rows(float* x, const float* factors, int rows, int n) = 0;
    virtual void scale_rows_by_sigmoid(float* x, const float* logits, int rows, int n) = 0;
    virtual void route(const RouterRule& rule, const float* logits, int rows, int experts, std::int32_t* ids,
                       float* weights) = 0;
    virtual void rope(const RopeJob& job, const float* cos, const float* sin) = 0;
    // blocks: starts of blocks, of which the layer's part is `offset` bytes on; the same in a job's tables.
    virtual void kv_append(const KvLayout& layout, const float* k, const float* v, const std::int64_t* positions,
                           std::byte* const* blocks, std::size_t offset, int rows) = 0;
    // most_segments: of 512 positions, the most that a row sees some of.
    virtual void attention(const AttentionJob& job, std::size_t offset, std::int64_t most_segments) = 0;
};

// One Repeat, as a scope.
class Repeating {
  public:
    Repeating(Accelerator* accelerator, const Accelerator::Repeat& key)
        : accelerator_(accelerator), done_(accelerator && accelerator->repeat(key)) {}
    ~Repeating() {
        if (accelerator_ && !done_) accelerator_->end_repeat(std::uncaught_exceptions() == exceptions_);
    }
    Repeating(const Repeating&) = delete;
    Repeating& operator=(const Repeating&) = delete;
    bool done() const { return done_; }

  private:
    Accelerator* const accelerator_;
    const bool done_;
    const int exceptions_ = std::uncaught_exceptions();
};

}  // namespace moestro::kernels
