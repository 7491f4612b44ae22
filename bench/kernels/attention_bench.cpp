#include "attention_bench.h"

#include <algorithm>
#include <cstring>

#include "base/memory.h"
#include "kernels/ops.h"
#include "meter.h"

namespace moestro::bench {

namespace {

using kernels::Compute;

constexpr int kHeads = 16, kKvHeads = 4, kHeadDim = 128;

// Sequences of one length, until they no longer fit any cache: an iteration takes the next.
struct Contexts {
    PageBuffer memory;
    std::vector<const std::byte*> tables;
    std::int64_t count = 0, blocks = 0;

    Contexts(const kernels::KvLayout& layout, std::int64_t length) : blocks(length / kernels::kKvBlock) {
        const std::size_t block = layout.block_bytes(), context = block * static_cast<std::size_t>(blocks);
        count = static_cast<std::int64_t>(kFarBeyondCaches / context) + 1;
        memory = PageBuffer(context * static_cast<std::size_t>(count), true);
        std::memset(memory.data(), 0, memory.size());
        for (std::int64_t i = 0; i < count * blocks; ++i)
            tables.push_back(memory.data() + block * static_cast<std::size_t>(i));
    }
};

void attend(benchmark::State& state, Compute& compute, kernels::KvType type, int rows, std::int64_t length) {
    kernels::AttentionJob job;
    job.layout = {type, kKvHeads, kHeadDim};
    const Contexts contexts(job.layout, length);
    const std::vector<float> q = normal(static_cast<std::size_t>(rows * kHeads * kHeadDim));
    std::vector<float> y(q.size());
    std::vector<std::int64_t> positions, begins(static_cast<std::size_t>(rows));
    double keys = 0;
    for (std::int64_t position = length - rows; position < length; ++position) {
        positions.push_back(position);
        keys += static_cast<double>(position + 1);
    }
    job.heads = kHeads;
    job.scale = 0.088f;
    job.q = q.data();
    job.positions = positions.data();
    job.block_tables = contexts.tables.data();
    job.table_begin = begins.data();
    job.rows = rows;
    job.y = y.data();
    kernels::AttentionScratch scratch;
    std::int64_t next = 0;
    const Meter meter(compute.pool().threads());
    for (auto _ : state) {
        std::fill(begins.begin(), begins.end(), next++ % contexts.count * contexts.blocks);
        kernels::attention(compute, job, scratch);
    }
    meter.report(state, static_cast<double>(job.layout.block_bytes()) * static_cast<double>(contexts.blocks),
                 4.0 * kHeads * kHeadDim * keys,
                 unit_of(peaks(compute.pool().threads()), kernels::name(compute.isa().active), "f32"));
}

struct Type {
    const char* name;
    kernels::KvType type;
};

}  // namespace

void add_attention(Compute& compute, const std::string& isa) {
    for (const auto& [name, type] :
         {Type{"f32", kernels::KvType::f32}, {"bf16", kernels::KvType::bf16}, {"f16", kernels::KvType::f16}}) {
        const auto add = [&, type = type](const std::string& kind, int rows, int length) {
            const std::string full =
                "attention/" + kind + "/" + name + "/" + isa + "/context:" + std::to_string(length);
            benchmark::RegisterBenchmark(full.c_str(),
                                         [=, &compute](benchmark::State& s) { attend(s, compute, type, rows, length); })
                ->UseRealTime()
                ->Unit(benchmark::kMicrosecond);
        };
        for (int length : {512, 8192}) add("decode", 1, length);
        for (int length : {512, 4096}) add("prefill", 512, length);
    }
}

}  // namespace moestro::bench
