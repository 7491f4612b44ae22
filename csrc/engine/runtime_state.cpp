#include "engine/runtime_state.h"

#include <algorithm>

#include "base/error.h"
#include "engine/entry.h"
#include "io/faulty_reader.h"

namespace moestro::engine {

namespace {

// Eight chunks in flight. As much as most systems let a process lock, so that it can be registered with the kernel.
constexpr std::size_t kStagingBytes = std::size_t{8} << 20;

}  // namespace

std::unique_ptr<io::Reader> Runtime::State::make_reader(std::span<std::byte> registered) const {
    auto reader = world.make_reader({.engine = options.engine,
                                     .depth = options.io_depth,
                                     .max_read_bytes = options.io_read_bytes,
                                     .registered = {registered}});
    if (options.faults.empty()) return reader;
    return std::make_unique<io::FaultyReader>(std::move(reader), io::FaultPlan::parse(options.faults));
}

std::size_t Runtime::staging_bytes() {
    return kStagingBytes;
}

Runtime::State::State(const RuntimeOptions& given, const World& given_world)
    : options(given),
      world(given_world),
      lanes(given.emulated ? std::make_shared<VirtualLanes>(policy::kLanes) : nullptr),
      clock(lanes ? std::static_pointer_cast<const Clock>(lanes->clock()) : given_world.clock),
      compute(std::make_shared<kernels::Compute>(given.threads, kernels::choose_isa(given.isa, given.math))),
      ledger(std::make_shared<memory::Ledger>(given.host_memory)),
      trace(std::make_shared<TraceRing>(given.trace_events)),
      staging(ledger, kStagingBytes),
      recorder(given.record_rows, given.record_ahead),
      reader(make_reader(staging.memory())),
      trunk(ledger, *reader, staging, compute->pool(), given.verify, *clock) {
    policy::require_predictor(given.prefetch);
    policy::require_eviction(given.policy);  // an unknown name is refused here, not after minutes of loading
    if (given.schedule != "auto" && given.schedule != "device") policy::require_planner(given.schedule);
    trunk_compute = compute;
    if (given.cuda) open_device();
    require(!given.expert_slots || *given.expert_slots >= 2, ErrorKind::usage, "expert_slots must be at least 2; got ",
            given.expert_slots.value_or(0));
}

// While the reader is still there: what is under way may want to read.
Runtime::State::~State() {
    drop_experts();
}

void Runtime::State::drop_experts() {
    runner.reset();
    prefetcher.reset();
    held.clear();
    caches.clear();
    device_cache.reset();
    cache.reset();
}

exec::LayerRunner& Runtime::State::experts() const {
    require(runner != nullptr, ErrorKind::usage, "this runtime has no experts: call set_experts first");
    return *runner;
}

store::TrunkUnits& Runtime::State::units_to_add() {
    require(!stream, ErrorKind::usage, "the stream runs already: give it all units before set_stream");
    if (!units) units = std::make_shared<store::TrunkUnits>(ledger);
    return *units;
}

residency::LayerStream& Runtime::State::streamed() const {
    require(stream != nullptr, ErrorKind::usage, "this runtime streams no units: call set_stream first");
    return *stream;
}

// First experts, which are cached for speed alone, then units of the trunk, which are read again in every step.
bool Runtime::State::lend(std::size_t bytes) {
    const Entry entry(*this);
    return give_up(bytes);
}

bool Runtime::State::give_up(std::size_t bytes) {
    if (!cache && !stream) return bytes == 0;
    if (runner) runner->sweep();
    const std::size_t from_cache = cache ? std::min(bytes, cache->limit() - cache->minimum()) : 0;
    if (from_cache == bytes) return cache->set_limit(cache->limit() - bytes);
    if (!stream || bytes - from_cache > stream->can_lend()) return false;
    if (from_cache > 0 && !cache->set_limit(cache->limit() - from_cache)) return false;
    return stream->lend(bytes - from_cache);
}

void Runtime::State::returned() {
    // A block may be released while a layer runs in another thread: then begin_step will notice.
    if (entered.exchange(true, std::memory_order_acquire)) return;
    struct Leave {
        State& state;
        ~Leave() { state.entered.store(false, std::memory_order_release); }
    } leave{*this};
    grow();
    publish();
}

std::size_t Runtime::State::can_lend() const {
    return (cache ? cache->limit() - cache->minimum() : 0) + (stream ? stream->can_lend() : 0);
}

void Runtime::State::grow() {
    if (stream) stream->grow();
    if (!cache) return;
    const std::size_t wanted = std::min(cache->useful(), cache->limit() + ledger->free());
    // Refused only when somebody else took the bytes meanwhile: the next release asks again.
    if (wanted > cache->limit()) static_cast<void>(cache->set_limit(wanted));
}

void Runtime::State::settle() {
    while (cache && cache->loading() > 0) cache->wait();
}

policy::RoutingRecord::Step Runtime::State::measured() const {
    const exec::RunCounters run = runner->counters();
    const residency::CacheCounters cached = cache->counters();
    return {.cache_bytes = step_limit,
            .began = step_began,
            .ended = clock->now(),
            .compute = run.compute_ns - step_run.compute_ns,
            .stall = run.stall_ns - step_run.stall_ns,
            .arrival = cache->source_counters().arrival_ns - step_source.arrival_ns,
            .read = cached.served_ns - step_cached.served_ns,
            .read_bytes = cached.served_bytes - step_cached.served_bytes};
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
        now.compute_queued_ns = run.queued_ns;
        now.read_queued_ns = cached.read_queued_ns;
        now.on_device = run.on_device;
        now.device_ns = run.device_ns;
        where = {.slots = cache->slots(),
                 .resident = cache->resident(),
                 .slot_bytes = cache->largest_slot(),
                 .expert_bytes_resident = cache->resident_bytes(),
                 .expert_bytes_total = static_cast<std::size_t>(catalog->record_bytes())};
    }
    if (stream) {
        const residency::StreamCounters streamed = stream->counters();
        now.stream_bytes_read = streamed.bytes;
        now.stream_stall_ns = streamed.stall_ns;
        now.stream_arrival_ns = streamed.arrival_ns;
        now.stream_read_busy_ns = streamed.read_busy_ns;
        now.stream_queued_ns = streamed.read_queued_ns;
        now.reads += streamed.reads;
        where.units = stream->units();
        where.units_kept = stream->kept();
    }
    now.clock_ns = clock->now();
    if (device_cache) {
        now.link_bytes = device_cache->source_counters().bytes;
        now.link_busy_ns = device_cache->counters().read_busy_ns;
        now.device_evictions = device_cache->counters().evictions;
        where.device_slots = device_cache->slots();
        where.device_resident = device_cache->resident();
        where.device_bytes = device_cache->limit();
        where.device_peak = device->peak();
    }
    std::lock_guard lock(looking);
    if (device_cache) {
        published.schedule = trial ? trial->summary() : options.schedule;
        published.refused.clear();
        for (const std::string& reason : {device_cache->refusal(), runner->refusal()})
            if (!reason.empty()) published.refused.push_back(reason);
    }
    if (prefetcher) {
        const auto all = prefetcher->counters();
        published.prefetch.assign(all.begin(), all.end());
    }
    published.counters = now;
    published.residency = where;
}

}  // namespace moestro::engine
