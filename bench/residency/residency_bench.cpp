// What keeping track of records costs, how fast they are read, and how well a layer stream hides its reads. Records are
// pieces of one file, zeros in a temporary one unless --file names a large one of a model.
//
//   moestro_bench_residency --file=path/to/experts-00001.safetensors
//   bench/residency/run.py does so beside fio
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"
#include "base/memory.h"
#include "engine/runtime.h"
#include "io/disk_probe.h"
#include "residency/layer_stream.h"

namespace {

using namespace moestro;
using Clock_ = std::chrono::steady_clock;

constexpr std::uint64_t kTemporaryBytes = std::uint64_t{512} << 20;

// A file to read from; a temporary one is written with real blocks and goes in the end.
struct Data {
    std::string path;
    std::uint64_t bytes = 0;
    bool temporary = false;

    ~Data() {
        if (temporary) std::filesystem::remove(path);
    }
};

void write_temporary(Data& data) {
    std::string path = (std::filesystem::temp_directory_path() / "moestro-bench-XXXXXX").string();
    const int descriptor = ::mkstemp(path.data());
    require(descriptor >= 0, ErrorKind::io, "cannot make a file in ", path);
    data.path = path;
    data.temporary = true;
    data.bytes = kTemporaryBytes;
    const std::vector<char> piece(std::size_t{4} << 20, 'x');
    for (std::uint64_t at = 0; at < kTemporaryBytes; at += piece.size())
        require(::write(descriptor, piece.data(), piece.size()) == static_cast<ssize_t>(piece.size()), ErrorKind::io,
                "cannot write ", path, ": give --file");
    ::fsync(descriptor);
    ::close(descriptor);
}

// ---- keeping track --------------------------------------------------------------------------------------------------

// A runtime over `count` records of the file, as experts of layer 0: gate, up and down of a small shape.
std::unique_ptr<engine::Runtime> runtime_over(const Data& data, int count) {
    engine::RuntimeOptions options;
    options.host_memory = std::size_t{256} << 20;
    options.verify = store::Verify::never;
    auto runtime = std::make_unique<engine::Runtime>(options);
    engine::ExpertLayer layer;
    layer.gate.spec = layer.up.spec = layer.down.spec = {32, 32, quant::Format::bf16, quant::ScaleType::none};
    layer.up.offset = layer.gate.spec.bytes();
    layer.down.offset = 2 * layer.up.offset;
    layer.record_bytes = 2 * kPageBytes;
    const int file = runtime->open_file(data.path);
    for (int expert = 0; expert < count; ++expert)
        layer.records.push_back({file, static_cast<std::uint64_t>(expert) * layer.record_bytes, layer.record_bytes, 0});
    runtime->set_experts({layer});
    return runtime;
}

// One record after the other, all in memory.
void acquire_release(benchmark::State& state, const Data& data) {
    const int count = static_cast<int>(state.range(0));
    const auto runtime = runtime_over(data, count);
    for (int expert = 0; expert < count; ++expert) {
        runtime->acquire(0, expert);
        runtime->release(0, expert);
    }
    int next = 0;
    for (auto _ : state) {
        benchmark::DoNotOptimize(runtime->acquire(0, next));
        runtime->release(0, next);
        next = (next + 1) % count;
    }
}

// ---- reading --------------------------------------------------------------------------------------------------------

void read_rate(benchmark::State& state, const Data& data, const std::string& engine) {
    const auto block = static_cast<std::size_t>(state.range(0)) << 10;
    const auto depth = static_cast<int>(state.range(1));
    const auto reader = io::make_reader({.engine = engine, .depth = depth, .registered = {}});
    const auto file = io::File::open(data.path, io::File::Cache::direct);
    std::size_t bytes = 0;
    for (auto _ : state) {
        const io::DiskRate rate = io::measure_read_rate(*reader, file, block, depth, 1'000'000'000);
        state.SetIterationTime(static_cast<double>(rate.elapsed) * 1e-9);
        bytes += rate.bytes;
    }
    state.counters["GB/s"] = benchmark::Counter(static_cast<double>(bytes) / 1e9, benchmark::Counter::kIsRate);
    state.SetLabel(file->direct() ? "O_DIRECT" : "page cache");
}

// ---- the layer stream -----------------------------------------------------------------------------------------------

constexpr int kUnits = 16;

std::shared_ptr<store::TrunkUnits> units_of(const Data& data, const std::shared_ptr<memory::Ledger>& ledger,
                                            std::size_t bytes) {
    auto units = std::make_shared<store::TrunkUnits>(ledger);
    const auto file = io::File::open(data.path, io::File::Cache::direct);
    const auto rows = static_cast<std::int32_t>(bytes / 4096);  // of 2048 bf16 columns
    const store::Part part{{rows, 2048, quant::Format::bf16, quant::ScaleType::none}, 0};
    for (int unit = 0; unit < kUnits; ++unit)
        units->add(text("unit ", unit), file, {0, static_cast<std::uint64_t>(unit) * bytes, bytes, 0}, {&part, 1}, {});
    return units;
}

// Passes over units of a 16th of the file (at most 64 MiB each), "computing" (asleep) for a share of what a read takes.
// "efficiency" is what the slower of the two would take alone, over what a pass took.
void stream(benchmark::State& state, const Data& data) {
    const auto window = static_cast<int>(state.range(0));
    const double compute_share = static_cast<double>(state.range(1)) / 100;
    const std::size_t bytes =
        std::min<std::uint64_t>(std::uint64_t{64} << 20, data.bytes / kUnits) / (32 * 4096) * (32 * 4096);
    const SteadyClock clock;
    const auto ledger = std::make_shared<memory::Ledger>(std::size_t{1} << 30);
    residency::StreamReading reading;
    reading.pool = std::make_unique<ThreadPool>(1);
    reading.reader = io::make_reader({.registered = {}});
    const auto units = units_of(data, ledger, bytes);
    reading.source = make_packed_source(units, *reading.reader, *reading.pool, store::Verify::never, clock);
    residency::LayerStream layers(units, ledger, {window, 1, 0}, std::move(reading), clock);
    const auto pass = [&](std::chrono::nanoseconds compute) {
        layers.begin(kUnits);
        const auto begin = Clock_::now();
        for (int unit = 0; unit < kUnits; ++unit) {
            layers.hold(unit);
            if (compute.count() > 0) std::this_thread::sleep_for(compute);
            layers.release(unit);
        }
        return std::chrono::duration<double>(Clock_::now() - begin).count();
    };
    pass({});
    double reads = 0;
    for (int i = 0; i < 3; ++i) reads += pass({}) / 3;
    const std::chrono::nanoseconds compute(static_cast<std::int64_t>(reads / kUnits * compute_share * 1e9));
    double spent = 0;
    for (auto _ : state) {
        const double seconds = pass(compute);
        spent += seconds;
        state.SetIterationTime(seconds);
    }
    const double ideal = std::max(reads, reads * compute_share);
    state.counters["efficiency"] = ideal * static_cast<double>(state.iterations()) / spent;
    state.counters["GB/s"] =
        static_cast<double>(bytes) * kUnits * static_cast<double>(state.iterations()) / spent / 1e9;
}

}  // namespace

int main(int argc, char** argv) {
    Data data;
    int kept = 1;
    for (int i = 1; i < argc; ++i) {
        if (std::strncmp(argv[i], "--file=", 7) == 0)
            data.path = argv[i] + 7;
        else
            argv[kept++] = argv[i];
    }
    argc = kept;
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
    try {
        if (data.path.empty())
            write_temporary(data);
        else
            data.bytes = std::filesystem::file_size(data.path);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    benchmark::RegisterBenchmark("acquire_release", [&](benchmark::State& s) { acquire_release(s, data); })
        ->Arg(64)
        ->Arg(4096);
    for (const char* engine : {"io_uring", "threads"})
        benchmark::RegisterBenchmark((std::string("read/") + engine).c_str(),
                                     [&data, engine](benchmark::State& s) { read_rate(s, data, engine); })
            ->ArgsProduct({{256, 1024, 4096}, {1, 8, 32}})
            ->ArgNames({"KiB", "depth"})
            ->UseManualTime()
            ->Iterations(2)
            ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark("stream", [&](benchmark::State& s) { stream(s, data); })
        ->ArgsProduct({{1, 2, 3}, {0, 50, 100, 200}})
        ->ArgNames({"window", "compute%"})
        ->UseManualTime()
        ->Iterations(3)
        ->Unit(benchmark::kMillisecond);
    benchmark::RunSpecifiedBenchmarks();
}
