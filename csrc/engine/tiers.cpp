// The part of Runtime that decides where experts may live: the disk behind the host's cache, the device's cache behind
// that, and their budgets.
#include <algorithm>
#include <climits>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "device/cuda.h"
#include "device/device_slots.h"
#include "device/emulated.h"
#include "engine/entry.h"
#include "engine/runtime_state.h"
#include "exec/device_probe.h"
#include "residency/placement.h"
#include "store/virtual_source.h"

namespace moestro::engine {

namespace {

// Whether some processor has nothing to do while the pool computes.
bool spare_processor(const ThreadPool& pool) {
    return std::thread::hardware_concurrency() > static_cast<unsigned>(pool.threads());
}

}  // namespace

policy::ExpertSet Runtime::State::expert_set() const {
    policy::ExpertSet set;
    for (const store::ExpertLayer& layer : catalog->layers()) set.layers.push_back({layer.layer, layer.experts()});
    return set;
}

std::vector<policy::LaneCosts> Runtime::State::known_costs() const {
    if (!options.emulated) return {};
    std::vector<policy::LaneCosts> costs = options.emulated->costs;
    if (costs.size() == 1) costs.resize(catalog->layers().size(), costs.front());
    require(costs.size() == catalog->layers().size(), ErrorKind::usage, "the model has ", catalog->layers().size(),
            " layers with experts; the emulated machine has costs of ", costs.size());
    for (policy::LaneCosts& one : costs) one.has_device = options.device_memory > 0;
    return costs;
}

std::unique_ptr<store::RecordSource> Runtime::State::disk() {
    ThreadPool& pool = compute->pool();
    auto source = catalog->packed()
                      ? make_packed_source(catalog, *reader, pool, options.verify, *clock, spare_processor(pool))
                      : make_checkpoint_source(catalog, *reader, staging, pool, *clock);
    if (!lanes) return source;
    return std::make_unique<store::VirtualSource>(
        lanes, static_cast<int>(policy::Lane::ssd),
        store::times_by_record(*catalog, known_costs(), &policy::LaneCosts::ssd), store::sizes_by_record(*catalog),
        std::move(source), static_cast<Nanos>(known_costs().front().ssd_start));
}

void Runtime::State::add_runner() {
    before = options.emulated ? known_costs().front() : options.costs;
    if (options.cuda)
        before = exec::with_device(before, *device, catalog->layers().front(), catalog->largest_record(), *clock);
    costs = exec::LiveCosts(before, catalog->largest_record());
    const residency::DeviceTier tier = options.device_memory > 0 ? add_device() : residency::DeviceTier();
    runner =
        std::make_unique<exec::LayerRunner>(*catalog, residency::Tiers(*cache, tier, lanes), *compute, *clock, &costs,
                                            tier.cache ? device_side() : exec::DeviceSide(), known_costs());
    if (!tier.cache) return;
    if (options.schedule == "auto") trial.emplace();
    runner->schedule().set_planner(trial                          ? trial->current()
                                   : options.schedule == "device" ? "on_demand"
                                                                  : std::string_view(options.schedule));
    if (options.schedule == "static" || options.schedule == "device" || options.policy == "static")
        residency::fill(*device_cache, *catalog, options.frequencies);
}

// Before anything is loaded, where the trunk may go there.
void Runtime::State::open_device() {
    const std::size_t memory = options.device_memory;
    if (options.cuda) {
        const std::size_t work = options.cuda->work;
        require(work < memory, ErrorKind::budget, "device_memory of ", bytes_text(memory), " has no room for the ",
                bytes_text(work), " that launches need");
        device = device::make_cuda({.ordinal = options.cuda->ordinal, .memory = memory - work, .work = work});
    } else {
        require(options.emulated.has_value(), ErrorKind::unsupported,
                "device_memory needs a device: device=\"cuda\" or device=\"emulated:...\"");
        const EmulatedMachine& machine = *options.emulated;
        require(memory <= machine.memory, ErrorKind::budget, "device_memory is ", bytes_text(memory),
                "; the device has ", bytes_text(machine.memory));
        device = device::make_emulated({.memory = machine.memory,
                                        .failed_allocation = machine.failed_allocation,
                                        .failed_copy = machine.failed_copy,
                                        .no_pinning = machine.no_pinning},
                                       lanes, compute);
    }
    device_ledger = std::make_shared<memory::Ledger>(memory);
    if (options.cuda) device_ledger->take("launches", options.cuda->work);
    if (!options.cuda || !options.cuda->trunk) return;
    accelerator = device->make_accelerator();
    trunk_compute = std::make_shared<kernels::Compute>(*compute, accelerator);
}

residency::DeviceTier Runtime::State::add_device() {
    if (!device) open_device();
    const std::size_t record = catalog->largest_record(), all = catalog->record_bytes(), free = device_ledger->free();
    require(free >= 2 * record, ErrorKind::budget, "device_memory of ", bytes_text(options.device_memory),
            " has no room for two experts of ", bytes_text(record), ": ", 2 * record - free,
            " bytes missing; held: ", device_ledger->summary(), ". Give more, or 0 to leave experts off the device");
    require(options.schedule != "device" || free >= all, ErrorKind::budget,
            "schedule 'device' keeps all experts on the device: they take ", bytes_text(all), ", device_memory has ",
            bytes_text(free), " for them; ", all - std::min(all, free),
            " bytes are missing. Give more, or choose another schedule");
    std::vector<Nanos> takes(static_cast<std::size_t>(catalog->experts()), 0);
    if (lanes) takes = store::times_by_record(*catalog, known_costs(), &policy::LaneCosts::link);
    auto source = std::make_unique<residency::LinkSource>(*cache, catalog, device->make_stream(), std::move(takes));
    residency::LinkSource* const link = source.get();
    device_cache = std::make_unique<residency::ExpertCache>(
        catalog, device_ledger, std::min(free, std::max(all, 2 * record)), INT_MAX, std::move(source),
        policy::make_eviction(options.policy, {expert_set(), options.frequencies}), *clock,
        device::device_slots(device));
    caches.push_back(device_cache.get());
    return {device, device_cache.get(), link, options.copies};
}

exec::DeviceSide Runtime::State::device_side() {
    exec::DeviceSide side;
    const auto make_room = [this](std::size_t bytes) {
        if (device_ledger->try_take("rows", bytes)) return true;
        return device_lender.give_up(bytes) && device_ledger->try_take("rows", bytes);
    };
    // With the trunk there, rows are among the arrays that were taken before.
    const auto is_taken = [](std::size_t) { return true; };
    side.rows = accelerator ? std::make_unique<exec::DeviceRows>(device, is_taken)
                            : std::make_unique<exec::DeviceRows>(device, make_room);
    if (accelerator) side.compute = trunk_compute;
    if (!options.cuda) return side;
    for (const store::ExpertLayer& layer : catalog->layers()) {
        std::array<device::Buffer, 3>& there = side.biases.emplace_back();
        for (std::size_t part = 0; part < there.size(); ++part) {
            const auto bytes = std::as_bytes(std::span(layer.biases[part]));
            if (bytes.empty()) continue;
            require(make_room(bytes.size()), ErrorKind::budget, "device_memory of ", bytes_text(options.device_memory),
                    " has no room for biases of experts; held: ", device_ledger->summary());
            there[part] = device::upload(*device, bytes);
        }
    }
    return side;
}

// ---- KV blocks in the device's memory -------------------------------------------------------------------------------

bool Runtime::State::DeviceLender::lend(std::size_t bytes) {
    const Entry entry(state_);
    return give_up(bytes);
}

bool Runtime::State::DeviceLender::give_up(std::size_t bytes) {
    residency::ExpertCache* const cache = state_.device_cache.get();
    if (state_.runner) state_.runner->sweep();
    return bytes <= can_lend() && (bytes == 0 || cache->set_limit(cache->limit() - bytes));
}

void Runtime::State::DeviceLender::returned() {
    residency::ExpertCache* const cache = state_.device_cache.get();
    // While a layer runs in another thread blocks may be released: the cache grows another time then.
    if (!cache || state_.entered.exchange(true, std::memory_order_acquire)) return;
    const std::size_t wanted = std::min(cache->useful(), cache->limit() + state_.device_ledger->free());
    if (wanted > cache->limit()) static_cast<void>(cache->set_limit(wanted));
    state_.publish();
    state_.entered.store(false, std::memory_order_release);
}

std::size_t Runtime::State::DeviceLender::can_lend() const {
    const residency::ExpertCache* const cache = state_.device_cache.get();
    return cache ? cache->limit() - cache->minimum() : 0;
}

// Reads ahead into the tier that others wait for: the device's memory where the host has all records, else the host's.
void Runtime::State::add_prefetcher() {
    if (options.prefetch == "none") return;
    policy::PredictorSettings settings = options.predictor;
    settings.experts = expert_set();
    const bool to_device = device_cache && cache->limit() >= catalog->record_bytes();
    policy::LaneCosts tier = before;
    if (to_device) tier.ssd = tier.link;
    prefetch_costs = exec::LiveCosts(tier, catalog->largest_record());
    prefetcher = std::make_unique<exec::Prefetcher>(policy::make_predictor(options.prefetch, settings), *catalog,
                                                    to_device ? *device_cache : *cache,
                                                    device_cache ? prefetch_costs : costs, *clock);
    runner->schedule().set_prefetcher(prefetcher.get());
}

// ---- other budgets --------------------------------------------------------------------------------------------------

void Runtime::resize(std::optional<std::size_t> host_memory, std::optional<std::size_t> device_memory) {
    const Entry entry(*state_);
    State& state = *state_;
    require(!state.log.open(), ErrorKind::usage, "budgets change between steps, not during one");
    require(!device_memory || state.device_cache, ErrorKind::usage,
            "this model was loaded without device memory: load it again to use a device");
    const std::size_t before = state.device_ledger ? state.device_ledger->budget() : 0;
    if (device_memory) state.resize_device(*device_memory);
    if (!host_memory) return;
    try {
        state.resize_host(*host_memory);
    } catch (const Error&) {
        if (device_memory) state.resize_device(before);
        throw;
    }
}

void Runtime::State::resize_host(std::size_t bytes) {
    const std::size_t held = ledger->held(), over = held - std::min(held, bytes);
    require(over <= can_lend() && (over == 0 || give_up(over)), ErrorKind::budget, "host_memory of ", bytes_text(bytes),
            " is less than can be done with: ", bytes_text(held - can_lend()), " is held by ", ledger->summary(),
            " and cannot be given up, ", over - std::min(over, can_lend()), " bytes missing");
    require(ledger->set_budget(bytes), ErrorKind::budget, "host_memory of ", bytes_text(bytes),
            ": somebody took memory meanwhile; held: ", ledger->summary());
    grow();
}

void Runtime::State::resize_device(std::size_t bytes) {
    // What a CUDA device gives was taken at once.
    const std::size_t most = options.cuda ? options.device_memory : device->memory();
    require(bytes <= most, ErrorKind::budget, "device_memory of ", bytes_text(bytes), ": the device has ",
            bytes_text(most), options.cuda ? " of its memory for this model: load it again for more" : "");
    const std::size_t others = device_ledger->held() - device_cache->limit();
    const std::size_t wanted = std::min(bytes - std::min(bytes, others), device_cache->useful());
    require(wanted >= device_cache->minimum(), ErrorKind::budget, "device_memory of ", bytes_text(bytes),
            " has no room for two experts: ", bytes_text(device_cache->minimum() + others), " are needed");
    if (wanted < device_cache->limit())
        require(device_cache->set_limit(wanted), ErrorKind::budget, "device_memory of ", bytes_text(bytes),
                ": experts that are in use take more");
    require(device_ledger->set_budget(bytes), ErrorKind::internal, "the device holds more than its experts");
    if (wanted > device_cache->limit())
        require(device_cache->set_limit(wanted), ErrorKind::internal, "the device's cache does not grow");
}

}  // namespace moestro::engine
