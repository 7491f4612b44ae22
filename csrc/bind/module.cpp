// The extension module moestro._core.
//
// Nothing that runs before refuse_old_cpu() may need more than baseline x86-64: an old CPU must get a sentence, not
// SIGILL. Only the per-ISA kernel objects are compiled for more, and they run through their table alone.
#include <cpuid.h>

#include <string>

#include "bind/bind.h"

namespace moestro::bind {
namespace {

struct CpuidWords {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

CpuidWords cpuid(unsigned leaf) {
    CpuidWords words;
    __get_cpuid_count(leaf, 0, &words.eax, &words.ebx, &words.ecx, &words.edx);
    return words;
}

// Whether the operating system saves the upper halves of the vector registers.
bool system_saves_ymm() {
    if ((cpuid(1).ecx & bit_OSXSAVE) == 0) return false;
    unsigned low = 0, high = 0;
    asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 0b110) == 0b110;
}

std::string missing_features() {
    const CpuidWords one = cpuid(1), seven = cpuid(7);
    std::string missing;
    const auto need = [&missing](bool there, const char* feature) {
        if (!there) missing += (missing.empty() ? "" : ", ") + std::string(feature);
    };
    need((one.ecx & bit_AVX) != 0 && system_saves_ymm(), "avx");
    need((seven.ebx & bit_AVX2) != 0, "avx2");
    need((one.ecx & bit_FMA) != 0, "fma");
    need((one.ecx & bit_F16C) != 0, "f16c");
    return missing;
}

// The import fails with this sentence as an ImportError; moestro.core makes it an UnsupportedError.
void refuse_old_cpu() {
    const std::string missing = missing_features();
    require(missing.empty(), ErrorKind::unsupported,
            "moestro needs an x86-64 CPU with AVX2, FMA and F16C, and this one lacks ", missing, ".");
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    refuse_old_cpu();
    module.doc() = "The C++ core of moestro; moestro.core is its documented surface.";
    module.attr("__version__") = MOESTRO_VERSION;
    bind_errors(module);
    bind_compute(module);
    bind_quant(module);
    bind_io(module);
    bind_runtime(module);
    bind_linear(module);
    bind_ops(module);
    bind_attention(module);
}

}  // namespace moestro::bind
