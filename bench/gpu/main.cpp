// Kernels on a CUDA device beside what the device can do: JSON lines on stdout, a table on stderr.
//
//     moestro_bench_gpu [--datasheet-int8-tops N] [--megabytes 512] [--only decode,prefill,attention]
//
// Every figure is a median of repeated launches without the host in between, over more weights than caches hold; one
// result of each kind is held against the processor's bits before it is timed.
#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <thread>

#include "attention.h"
#include "kernels/compute.h"
#include "peaks.h"

namespace {

using namespace moestro;
using namespace moestro::bench;
using quant::Format;

struct Options {
    double datasheet_tops = 0;
    std::size_t megabytes = 512;
    std::string only;
    bool wants(const std::string& kind) const {
        return only.empty() || ("," + only + ",").find("," + kind + ",") != std::string::npos;
    }
};

Options parse(int count, char** words) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string name = words[i];
        if (i + 1 == count) throw std::runtime_error(name + ": expected a value after it");
        const std::string value = words[++i];
        if (name == "--datasheet-int8-tops")
            options.datasheet_tops = std::stod(value);
        else if (name == "--megabytes")
            options.megabytes = std::stoul(value);
        else if (name == "--only")
            options.only = value;
        else
            throw std::runtime_error(name + ": expected --datasheet-int8-tops, --megabytes or --only");
    }
    return options;
}

// Measures one thing after the other; one that fails is said, and the others go on.
class Measuring {
  public:
    explicit Measuring(const Setting& setting) : setting_(setting) {}

    void decode(Format format) {
        for (const ExpertShape& shape : {kSmall, kLarge})
            attempt("decode", "experts", [&] { measure_decode(setting_, shape, format); });
        for (const int rows : {4096, 32000})
            attempt("decode", "linear", [&] { measure_linear(setting_, rows, 4096, format, {1, 2, 4, 8}); });
    }
    void prefill(Format format) {
        attempt("prefill", "linear", [&] { measure_linear(setting_, 14336, 4096, format, {128, 512, 2048}); });
        attempt("prefill", "experts", [&] { measure_grouped_prefill(setting_, kSmall, format); });
    }
    void attention(int context) {
        for (const int rows : {1, 8})
            attempt("attention", "attention", [&] { measure_attention(setting_, context, rows); });
    }
    bool failed() const { return failed_; }

  private:
    static constexpr ExpertShape kSmall{2048, 768}, kLarge{4096, 14336};

    template <class Body>
    void attempt(const char* kind, const char* name, const Body& body) {
        try {
            body();
        } catch (const std::exception& error) {
            failed_ = true;
            setting_.results.skip(kind, name, error.what());
        }
    }

    const Setting& setting_;
    bool failed_ = false;
};

// Whether all went well.
bool measure(const Options& options) {
    const Device device = open_device();
    const Results results;
    const Stream stream;
    results.about(device.name, device.major, device.minor, device.multiprocessors);
    Limits limits = measure_peaks(device, stream, options.megabytes, results);
    limits.datasheet = options.datasheet_tops * 1e12;
    kernels::Compute compute(static_cast<int>(std::min(std::thread::hardware_concurrency(), 16u)),
                             kernels::choose_isa(""));
    const Setting setting{compute, stream, limits, results, options.megabytes};
    Measuring measuring(setting);
    constexpr Format kFormats[] = {Format::q4, Format::q8, Format::bf16};
    for (const Format format : kFormats)
        if (options.wants("decode")) measuring.decode(format);
    for (const Format format : kFormats)
        if (options.wants("prefill")) measuring.prefill(format);
    for (const int context : {8192, 32768})
        if (options.wants("attention")) measuring.attention(context);
    return !measuring.failed();
}

}  // namespace

int main(int count, char** words) {
    try {
        if (measure(parse(count, words))) return 0;
        std::fprintf(stderr, "moestro_bench_gpu: not everything was measured\n");
        return 1;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "moestro_bench_gpu: %s\n", error.what());
        return 1;
    }
}
