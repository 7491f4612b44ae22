// Every instruction-set table this machine can run, the emulated AVX-512 one included.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/compute.h"
#include "kernels/table.h"

namespace moestro::kernels {
#ifdef MOESTRO_TEST_EMULATED_AVX512
// tests/cpp/kernels/emulated
const Table& avx512_emulated_table();
const Table& avx512bf16_emulated_table();
#endif
}  // namespace moestro::kernels

namespace moestro::testing {

struct NamedChoice {
    std::string name;
    kernels::IsaChoice choice;
};

inline bool runs(const char* isa) {
    try {
        kernels::choose_isa(isa);
        return true;
    } catch (const std::exception&) {
        return false;
    }
}

inline std::vector<NamedChoice> runnable_tables() {
    std::vector<NamedChoice> tables;
    for (const char* isa : {"scalar", "avx2", "avx512"})
        if (runs(isa)) tables.push_back({isa, kernels::choose_isa(isa)});
#ifdef MOESTRO_TEST_EMULATED_AVX512
    if (runs("avx2"))
        tables.push_back({"avx512_emulated", {kernels::Isa::avx512, &kernels::avx512_emulated_table(), {}, {}}});
#endif
    return tables;
}

// Where fast math can be computed: on this CPU, emulated.
inline std::vector<NamedChoice> fast_tables() {
    std::vector<NamedChoice> tables;
    const kernels::IsaChoice native = kernels::choose_isa("", kernels::Math::fast);
    if (native.math == kernels::Math::fast) tables.push_back({"native", native});
#ifdef MOESTRO_TEST_EMULATED_AVX512
    if (runs("avx2"))
        tables.push_back(
            {"emulated", {kernels::Isa::avx512, &kernels::avx512bf16_emulated_table(), {}, kernels::Math::fast}});
#endif
    return tables;
}

// A table with 1, 2 and 3 threads; the scalar one with a single thread is the reference.
struct NamedCompute {
    std::string name;
    std::unique_ptr<kernels::Compute> compute;
};
inline std::vector<NamedCompute> threaded(const std::vector<NamedChoice>& tables) {
    std::vector<NamedCompute> all;
    for (const NamedChoice& table : tables)
        for (int threads : {1, 2, 3})
            all.push_back({table.name + ", threads " + std::to_string(threads),
                           std::make_unique<kernels::Compute>(threads, table.choice)});
    return all;
}
inline std::vector<NamedCompute> every_compute() {
    return threaded(runnable_tables());
}
inline kernels::Compute& scalar_compute() {
    static kernels::Compute compute(1, kernels::choose_isa("scalar"));
    return compute;
}

// Kernels must not care that their caller flushes subnormals.
class FlushSubnormals {
  public:
    FlushSubnormals() : saved_(__builtin_ia32_stmxcsr()) { __builtin_ia32_ldmxcsr(saved_ | 0x8040); }
    ~FlushSubnormals() { __builtin_ia32_ldmxcsr(saved_); }

  private:
    unsigned saved_;
};

}  // namespace moestro::testing
