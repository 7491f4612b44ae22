// What a kernel call needs from its surroundings: a thread pool and a table of kernels, by instruction set and math.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/thread_pool.h"

namespace moestro::kernels {

struct Table;       // kernels/table.h: one per instruction set
class Accelerator;  // kernels/accelerator.h

enum class Isa { scalar, avx2, avx512 };
std::string_view name(Isa isa);

// exact: the results of docs/numerics.md, the same from every table. fast: those of its section "Fast math", for bf16
// matrices only and on CPUs with AVX512_BF16 only.
enum class Math { exact, fast };
std::string_view name(Math math);
Math parse_math(std::string_view name);  // Error(usage) for a name that does not exist

struct IsaChoice {
    Isa active = Isa::scalar;
    const Table* table = nullptr;
    // Faster tables not active, each with its reason: "avx512: this CPU lacks avx512f", "avx2: MOESTRO_ISA=scalar".
    // And fast math, where it was asked for and cannot be had.
    std::vector<std::string> refused;
    Math math = Math::exact;  // what `table` computes
};

// The best table this CPU runs, or the one named by `forced` ("" = best). Throws Error(unsupported) when the CPU lacks
// what the named one needs, Error(usage) for an unknown name (listing the known ones). Fast math is a wish: where it
// cannot be had the choice is exact, and `refused` says why.
IsaChoice choose_isa(std::string_view forced, Math math = Math::exact);

// Immutable after construction but for the pool's own state; calls on one Compute from several threads are served one
// after the other by the pool.
class Compute {
  public:
    Compute(int threads, const IsaChoice& choice) : pool_(std::make_shared<ThreadPool>(threads)), isa_(choice) {}
    // Of the same processor, whose operations run on `accelerator`.
    Compute(const Compute& processor, std::shared_ptr<Accelerator> accelerator)
        : pool_(processor.pool_), isa_(processor.isa_), accelerator_(std::move(accelerator)) {}
    ThreadPool& pool() { return *pool_; }
    const Table& table() const { return *isa_.table; }
    const IsaChoice& isa() const { return isa_; }
    Accelerator* accelerator() const { return accelerator_.get(); }  // null: operations run on the processor

  private:
    std::shared_ptr<ThreadPool> pool_;
    IsaChoice isa_;
    std::shared_ptr<Accelerator> accelerator_;
};

}  // namespace moestro::kernels
