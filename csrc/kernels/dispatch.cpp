// Which instruction-set table runs: one look at the CPU, one list of tables.
#include <cpuid.h>

#include <array>
#include <cstdint>

#include "base/error.h"
#include "kernels/compute.h"
#include "kernels/table.h"

namespace moestro::kernels {

namespace {

struct Registers {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers leaf(std::uint32_t number, std::uint32_t part = 0) {
    Registers r;
    __get_cpuid_count(number, part, &r.eax, &r.ebx, &r.ecx, &r.edx);  // leaves zeros where the CPU has no such leaf
    return r;
}

bool bit(std::uint32_t word, int index) {
    return (word >> index & 1u) != 0;
}

// The register files the operating system saves (XCR0), 0 where it saves none by xsave.
std::uint32_t saved_state(const Registers& basic) {
    if (!bit(basic.ecx, 27)) return 0;
    std::uint32_t low = 0, high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

constexpr std::uint32_t kYmmState = 0x06;  // xmm, ymm
constexpr std::uint32_t kZmmState = 0xe6;  // and opmask, both halves of zmm

// The first thing missing for a table, or "" when it can run.
std::string missing_avx2(const Registers& basic, const Registers& extended) {
    if (!bit(basic.ecx, 28)) return "this CPU lacks avx";
    if ((saved_state(basic) & kYmmState) != kYmmState) return "this operating system does not save ymm registers";
    if (!bit(basic.ecx, 12)) return "this CPU lacks fma";
    if (!bit(basic.ecx, 29)) return "this CPU lacks f16c";
    if (!bit(extended.ebx, 5)) return "this CPU lacks avx2";
    if (!bit(extended.ebx, 8)) return "this CPU lacks bmi2";
    return "";
}

std::string missing_avx512(const Registers& basic, const Registers& extended) {
    if (std::string missing = missing_avx2(basic, extended); !missing.empty()) return missing;
    if (!bit(extended.ebx, 16)) return "this CPU lacks avx512f";
    if (!bit(extended.ebx, 17)) return "this CPU lacks avx512dq";
    if (!bit(extended.ebx, 30)) return "this CPU lacks avx512bw";
    if (!bit(extended.ebx, 31)) return "this CPU lacks avx512vl";
    if (!bit(extended.ecx, 11)) return "this CPU lacks avx512_vnni";
    if ((saved_state(basic) & kZmmState) != kZmmState) return "this operating system does not save zmm registers";
    return "";
}

std::string missing_nothing(const Registers&, const Registers&) {
    return "";
}

// Best last. An instruction set is a line here, an enumerator, a unit in cpu/ and its flags in CMakeLists.txt.
struct Entry {
    Isa isa;
    std::string_view name;
    const Table& (*table)();
    std::string (*missing)(const Registers& basic, const Registers& extended);
};
constexpr std::array kEntries = {
    Entry{Isa::scalar, "scalar", scalar_table, missing_nothing},
    Entry{Isa::avx2, "avx2", avx2_table, missing_avx2},
    Entry{Isa::avx512, "avx512", avx512_table, missing_avx512},
};

const Entry& find(std::string_view name) {
    for (const Entry& entry : kEntries)
        if (entry.name == name) return entry;
    std::string known;
    for (const Entry& entry : kEntries) known += (known.empty() ? "" : ", ") + std::string(entry.name);
    fail(ErrorKind::usage, "unknown instruction set '", name, "': expected one of ", known);
}

// Why `chosen` has no fast math, or "". The instruction that makes it fast is named before what it builds on.
std::string missing_fast(const Entry& chosen, const Registers& basic, const Registers& extended) {
    const bool more = extended.eax >= 1;  // parts of leaf 7 beyond the first
    if (!more || !bit(leaf(7, 1).eax, 5)) return "this CPU lacks avx512_bf16";
    if (std::string missing = missing_avx512(basic, extended); !missing.empty()) return missing;
    return chosen.isa == Isa::avx512 ? "" : text("MOESTRO_ISA=", chosen.name);
}

constexpr std::array<std::string_view, 2> kMathNames = {"exact", "fast"};

}  // namespace

std::string_view name(Isa isa) {
    return kEntries[static_cast<std::size_t>(isa)].name;
}

std::string_view name(Math math) {
    return kMathNames[static_cast<std::size_t>(math)];
}

Math parse_math(std::string_view name) {
    for (std::size_t i = 0; i < kMathNames.size(); ++i)
        if (kMathNames[i] == name) return static_cast<Math>(i);
    fail(ErrorKind::usage, "unknown math '", name, "': expected exact or fast");
}

IsaChoice choose_isa(std::string_view forced, Math math) {
    const Registers basic = leaf(1), extended = leaf(7);
    const Entry* chosen = forced.empty() ? nullptr : &find(forced);
    if (chosen) {
        const std::string missing = chosen->missing(basic, extended);
        require(missing.empty(), ErrorKind::unsupported, "MOESTRO_ISA=", forced, " cannot run: ", missing,
                "; unset it to take the best instruction set of this CPU");
    } else {
        for (const Entry& entry : kEntries)
            if (entry.missing(basic, extended).empty()) chosen = &entry;
    }
    IsaChoice choice{chosen->isa, &chosen->table(), {}, Math::exact};
    for (const Entry* faster = chosen + 1; faster != kEntries.data() + kEntries.size(); ++faster) {
        const std::string missing = faster->missing(basic, extended);
        choice.refused.push_back(text(faster->name, ": ", missing.empty() ? text("MOESTRO_ISA=", forced) : missing));
    }
    if (math == Math::exact) return choice;
    if (const std::string missing = missing_fast(*chosen, basic, extended); !missing.empty()) {
        choice.refused.push_back(text("fast math: ", missing, ", so math='fast' computes exactly"));
        return choice;
    }
    choice.table = &avx512bf16_table();
    choice.math = Math::fast;
    return choice;
}

}  // namespace moestro::kernels
