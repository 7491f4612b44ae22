// Every operation x format x instruction set x rows: GB/s of weights (or keys and values) and GFLOP/s, each also as a
// share of what the same binary just measured this machine to reach (peaks.h). Matrices of one case together are far
// larger than caches, as the experts of a model are: one pass reads memory.
//
//   moestro_bench_kernels --threads=2 --benchmark_filter=linear/q8
//   moestro_bench_kernels --threads=2 --peaks    what the machine can do, as JSON, and nothing else
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attention_bench.h"
#include "base/error.h"
#include "base/memory.h"
#include "kernels/ops.h"
#include "meter.h"
#include "peaks.h"
#include "quant/pack.h"

namespace {

using namespace moestro;
using bench::kFarBeyondCaches;
using bench::Meter;
using bench::normal;
using kernels::Compute;

constexpr int kHidden = 2048, kWidth = 768;

// What a product of weights of this format keeps busy.
const bench::UnitRate* unit_of(Compute& compute, quant::Format format) {
    const bool fast = compute.isa().math == kernels::Math::fast && format == quant::Format::bf16;
    const char* type = quant::is_integer(format) ? "int8" : fast ? "bf16" : "f32";
    return bench::unit_of(bench::peaks(compute.pool().threads()), kernels::name(compute.isa().active), type);
}

// Copies of one packed matrix until they no longer fit any cache.
struct Copies {
    quant::MatrixSpec spec;
    PageBuffer memory;
    std::size_t stride = 0;
    int count = 0;

    Copies(int rows, int cols, quant::Format format) {
        spec = {rows, cols, format, quant::is_integer(format) ? quant::ScaleType::f16 : quant::ScaleType::none};
        stride = spec.bytes();
        count = std::max(1, static_cast<int>(kFarBeyondCaches / stride));
        memory = PageBuffer(stride * static_cast<std::size_t>(count), true);
        const std::vector<float> weights = normal(static_cast<std::size_t>(rows) * static_cast<std::size_t>(cols));
        const quant::Source source{reinterpret_cast<const std::byte*>(weights.data()), quant::SourceType::f32, rows,
                                   cols};
        quant::pack(source, spec, memory.data(), 0, spec.panels());
        for (int i = 1; i < count; ++i)
            std::memcpy(memory.data() + stride * static_cast<std::size_t>(i), memory.data(), stride);
    }
    kernels::Matrix at(std::int64_t i) const {
        return {memory.data() + stride * static_cast<std::size_t>(i % count), spec, nullptr};
    }
};

void linear(benchmark::State& state, Compute& compute, quant::Format format, int rows) {
    const Copies weights(kHidden, kHidden, format);
    const std::vector<float> x = normal(static_cast<std::size_t>(rows * kHidden));
    std::vector<float> y(x.size());
    kernels::Activations input;
    std::int64_t next = 0;
    const Meter meter(compute.pool().threads());
    for (auto _ : state) {
        input.prepare(compute, x.data(), rows, kHidden, quant::is_integer(format));
        const kernels::LinearJob job{weights.at(next++), y.data(), kHidden};
        kernels::linear(compute, input, {&job, 1});
    }
    meter.report(state, static_cast<double>(weights.stride), 2.0 * kHidden * kHidden * rows, unit_of(compute, format));
}

void gated_mlp(benchmark::State& state, Compute& compute, quant::Format format, int rows) {
    const Copies gate(kWidth, kHidden, format), up(kWidth, kHidden, format), down(kHidden, kWidth, format);
    const std::vector<float> x = normal(static_cast<std::size_t>(rows * kHidden));
    std::vector<float> y(x.size());
    std::vector<std::int32_t> all(static_cast<std::size_t>(rows));
    for (int row = 0; row < rows; ++row) all[static_cast<std::size_t>(row)] = row;
    kernels::Activations input;
    kernels::MlpScratch scratch;
    std::int64_t next = 0;
    const Meter meter(compute.pool().threads());
    for (auto _ : state) {
        input.prepare(compute, x.data(), rows, kHidden, quant::is_integer(format));
        const kernels::ExpertJob job{{gate.at(next), up.at(next), down.at(next)}, all, y.data()};
        kernels::experts(compute, input, {&job, 1}, scratch);
        ++next;
    }
    meter.report(state, static_cast<double>(gate.stride + up.stride + down.stride), 6.0 * kHidden * kWidth * rows,
                 unit_of(compute, format));
}

void rms_norm(benchmark::State& state, Compute& compute, int rows) {
    const std::vector<float> x = normal(static_cast<std::size_t>(rows * kHidden)), w = normal(kHidden);
    std::vector<float> y(x.size());
    const Meter meter(compute.pool().threads());
    for (auto _ : state) kernels::rms_norm(compute, x.data(), w.data(), 1e-6f, rows, kHidden, y.data());
    meter.report(state, 8.0 * kHidden * rows, 4.0 * kHidden * rows, unit_of(compute, quant::Format::f32));
}

void router(benchmark::State& state, Compute& compute, int rows) {
    const std::vector<float> logits = normal(static_cast<std::size_t>(rows * 128));
    std::vector<std::int32_t> ids(static_cast<std::size_t>(rows * 8));
    std::vector<float> weights(ids.size());
    const Meter meter(compute.pool().threads());
    for (auto _ : state)
        kernels::route(compute, {.top_k = 8, .normalise = true}, logits.data(), rows, 128, ids.data(), weights.data());
    meter.report(state, 4.0 * 128 * rows, 20.0 * 128 * rows, unit_of(compute, quant::Format::f32));
}

// From bf16 or f32 rows, as a checkpoint holds them, to panels; bytes are the source's.
void pack(benchmark::State& state, quant::SourceType type, quant::Format format) {
    const int rows = 512;
    std::vector<std::byte> data(static_cast<std::size_t>(rows * kHidden) * quant::bytes(type), std::byte{0x3c});
    const quant::Source source{data.data(), type, rows, kHidden};
    const quant::MatrixSpec spec{rows, kHidden, format,
                                 quant::is_integer(format) ? quant::ScaleType::f16 : quant::ScaleType::none};
    const PageBuffer out(spec.bytes());
    const Meter meter(1);
    for (auto _ : state) quant::pack(source, spec, out.data(), 0, spec.panels());
    meter.report(state, static_cast<double>(data.size()), 0, nullptr);
}

using Bench = std::function<void(benchmark::State&)>;
void add(const std::string& name, Bench bench) {
    benchmark::RegisterBenchmark(name.c_str(), std::move(bench))->UseRealTime()->Unit(benchmark::kMicrosecond);
}

constexpr int kRows[] = {1, 2, 4, 16, 64, 256};

// What fast math changes.
void add_fast(Compute& compute) {
    for (int rows : kRows) {
        const std::string tail = "/bf16_fast/avx512/rows:" + std::to_string(rows);
        add("linear" + tail, [=, &compute](benchmark::State& s) { linear(s, compute, quant::Format::bf16, rows); });
        add("gated_mlp" + tail,
            [=, &compute](benchmark::State& s) { gated_mlp(s, compute, quant::Format::bf16, rows); });
    }
}

void add_all(Compute& compute) {
    const std::string isa(kernels::name(compute.isa().active));
    using quant::Format;
    for (int rows : kRows) {
        const std::string tail = "/" + isa + "/rows:" + std::to_string(rows);
        for (Format format : {Format::f32, Format::bf16, Format::q8, Format::q4}) {
            const std::string name(quant::name(format));
            add("linear/" + name + tail, [=, &compute](benchmark::State& s) { linear(s, compute, format, rows); });
            add("gated_mlp/" + name + tail,
                [=, &compute](benchmark::State& s) { gated_mlp(s, compute, format, rows); });
        }
        add("rms_norm/f32" + tail, [=, &compute](benchmark::State& s) { rms_norm(s, compute, rows); });
        add("router/f32" + tail, [=, &compute](benchmark::State& s) { router(s, compute, rows); });
    }
    bench::add_attention(compute, isa);
}

struct Options {
    int threads = 2;
    bool only_peaks = false;
};

// Takes --threads=N and --peaks out of the arguments.
Options take_options(int& argc, char** argv) {
    Options options;
    int kept = 1;
    for (int i = 1; i < argc; ++i) {
        if (std::strncmp(argv[i], "--threads=", 10) == 0)
            options.threads = std::atoi(argv[i] + 10);
        else if (std::strcmp(argv[i], "--peaks") == 0)
            options.only_peaks = true;
        else
            argv[kept++] = argv[i];
    }
    argc = kept;
    return options;
}

}  // namespace

int main(int argc, char** argv) {
    const auto [threads, only_peaks] = take_options(argc, argv);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    if (only_peaks) {
        std::puts(bench::to_json(bench::peaks(threads)).c_str());
        return 0;
    }
    std::vector<std::unique_ptr<Compute>> computes;
    for (const char* isa : {"scalar", "avx2", "avx512"}) {
        try {
            computes.push_back(std::make_unique<Compute>(threads, kernels::choose_isa(isa)));
            add_all(*computes.back());
        } catch (const Error& error) {
            std::printf("%s: not measured (%s)\n", isa, error.what());
        }
    }
    const kernels::IsaChoice fast = kernels::choose_isa("", kernels::Math::fast);
    if (fast.math == kernels::Math::fast)
        add_fast(*computes.emplace_back(std::make_unique<Compute>(threads, fast)));
    else
        std::printf("bf16_fast: not measured (%s)\n", fast.refused.back().c_str());
    add("pack/bf16_to_bf16", [](benchmark::State& s) { pack(s, quant::SourceType::bf16, quant::Format::bf16); });
    add("pack/f32_to_f32", [](benchmark::State& s) { pack(s, quant::SourceType::f32, quant::Format::f32); });
    add("pack/bf16_to_q8", [](benchmark::State& s) { pack(s, quant::SourceType::bf16, quant::Format::q8); });
    add("pack/bf16_to_q4", [](benchmark::State& s) { pack(s, quant::SourceType::bf16, quant::Format::q4); });
    const bench::Peaks& peak = bench::peaks(threads);
    std::printf("peaks, %d threads: memory read %.1f GB/s", threads, peak.read_bytes_per_second / 1e9);
    for (const bench::UnitRate& unit : peak.units)
        std::printf(", %s %s %.0f Gop/s", unit.isa.c_str(), unit.type.c_str(), unit.operations_per_second / 1e9);
    std::printf("\n");
    benchmark::RunSpecifiedBenchmarks();
}
