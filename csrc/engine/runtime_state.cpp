#include "engine/runtime_state.h"

#include <algorithm>

#include "base/error.h"
#include "engine/entry.h"
#include "io/faulty_reader.h"

namespace moestro::engine {

namespace {

// Eight chunks in flight. As much as most systems let a process lock, so that it can be registered with the kernel.
constexpr std::size_t kStagingBytes = std::size_t{8} << 20;

std::unique_ptr<io::Reader> make_reader(const RuntimeOptions& options, const World& world,
                                        std::span<std::byte> registered) {
    auto reader = world.make_reader({.engine = options.engine, .depth = options.io_depth, .registered = {registered}});
    if (options.faults.empty()) return reader;
    return std::make_unique<io::FaultyReader>(std::move(reader), io::FaultPlan::parse(options.faults));
}

}  // namespace

std::size_t Runtime::staging_bytes() {
    return kStagingBytes;
}

Runtime::State::State(const RuntimeOptions& given, const World& world)
    : options(given),
      clock(world.clock),
      compute(std::make_shared<kernels::Compute>(given.threads, kernels::choose_isa(given.isa, given.math))),
      ledger(std::make_shared<memory::Ledger>(given.host_memory)),
      staging(ledger, kStagingBytes),
      reader(make_reader(given, world, staging.memory())),
      trunk(ledger, *reader, staging, compute->pool(), given.verify, *clock) {
    policy::make_eviction(given.policy);  // an unknown name is refused here, not after minutes of loading
    require(!given.expert_slots || *given.expert_slots >= 2, ErrorKind::usage, "expert_slots must be at least 2; got ",
            given.expert_slots.value_or(0));
}

exec::LayerRunner& Runtime::State::experts() const {
    require(runner != nullptr, ErrorKind::usage, "this runtime has no experts: call set_experts first");
    return *runner;
}

bool Runtime::State::lend(std::size_t bytes) {
    if (!cache) return false;
    const Entry entry(*this);
    runner->sweep();
    return bytes <= cache->limit() && cache->set_limit(cache->limit() - bytes);
}

void Runtime::State::returned() {
    // A block may be released while a layer runs in another thread: then begin_step will notice.
    if (entered.exchange(true, std::memory_order_acquire)) return;
    struct Leave {
        State& state;
        ~Leave() { state.entered.store(false, std::memory_order_release); }
    } leave{*this};
    grow_cache();
    publish();
}

std::size_t Runtime::State::can_lend() const {
    return cache ? cache->limit() - cache->minimum() : 0;
}

void Runtime::State::grow_cache() {
    if (!cache) return;
    const std::size_t wanted = std::min(cache->useful(), cache->limit() + ledger->free());
    // Refused only when somebody else took the bytes meanwhile: the next release asks again.
    if (wanted > cache->limit()) static_cast<void>(cache->set_limit(wanted));
}

void Runtime::State::settle() {
    while (cache && cache->loading() > 0) cache->wait();
}

void Runtime::State::publish() {
    Counters now;
    Residency where;
    now.steps = steps;
    now.rows = rows;
    const store::SourceCounters trunk_reads = trunk.counters();
    now.trunk_bytes_read = trunk_reads.bytes;
    now.reads = trunk_reads.reads;
    if (cache) {
        const exec::RunCounters run = runner->counters();
        const residency::CacheCounters cached = cache->counters();
        const store::SourceCounters source = cache->source_counters();
        now.hits = run.hits;
        now.misses = run.misses;
        now.joined = run.joined;
        now.evictions = cached.evictions;
        now.expert_bytes_read = source.bytes;
        now.reads += source.reads;
        now.compute_ns = run.compute_ns;
        now.stall_ns = run.stall_ns;
        now.arrival_ns = source.arrival_ns;
        now.read_busy_ns = cached.read_busy_ns;
        where = {cache->slots(), cache->resident(), cache->largest_slot(), cache->resident_bytes(),
                 static_cast<std::size_t>(catalog->record_bytes())};
    }
    std::lock_guard lock(looking);
    published.counters = now;
    published.residency = where;
}

}  // namespace moestro::engine
