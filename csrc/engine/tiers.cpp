// The part of Runtime that decides where experts may live: the disk behind the host's cache, the device's cache behind
// that, and their budgets.
#include <algorithm>
#include <climits>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "device/device_slots.h"
#include "device/emulated.h"
#include "engine/entry.h"
#include "engine/runtime_state.h"
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
    costs = exec::LiveCosts(options.emulated ? known_costs().front() : options.costs, catalog->largest_record());
    const residency::DeviceTier tier = options.device_memory > 0 ? add_device() : residency::DeviceTier();
    std::unique_ptr<exec::DeviceRows> rows;
    if (tier.cache) {
        const auto make_room = [this](std::size_t bytes) {
            const std::size_t limit = device_cache->limit();
            const bool fits = bytes <= limit && device_cache->set_limit(limit - bytes);
            return fits && device_ledger->try_take("rows", bytes);
        };
        rows = std::make_unique<exec::DeviceRows>(device, make_room);
    }
    runner = std::make_unique<exec::LayerRunner>(*catalog, residency::Tiers(*cache, tier, lanes), *compute, *clock,
                                                 &costs, std::move(rows), known_costs());
    if (!tier.cache) return;
    if (options.schedule == "auto") trial.emplace();
    runner->schedule().set_planner(trial                          ? trial->current()
                                   : options.schedule == "device" ? "on_demand"
                                                                  : std::string_view(options.schedule));
    if (options.schedule == "static" || options.schedule == "device" || options.policy == "static")
        residency::fill(*device_cache, *catalog, options.frequencies);
}

residency::DeviceTier Runtime::State::add_device() {
    require(options.emulated.has_value(), ErrorKind::unsupported,
            "this build has no device but an emulated one: device_memory needs device=\"emulated:...\"");
    const EmulatedMachine& machine = *options.emulated;
    const std::size_t record = catalog->largest_record(), all = catalog->record_bytes();
    require(options.device_memory <= machine.memory, ErrorKind::budget, "device_memory is ",
            bytes_text(options.device_memory), "; the device has ", bytes_text(machine.memory));
    require(options.device_memory >= 2 * record, ErrorKind::budget, "device_memory of ",
            bytes_text(options.device_memory), " has no room for two experts of ", bytes_text(record), ": ",
            2 * record - options.device_memory, " bytes missing. Give more, or 0 to leave experts off the device");
    require(options.schedule != "device" || options.device_memory >= all, ErrorKind::budget,
            "schedule 'device' keeps all experts on the device: they take ", bytes_text(all), ", device_memory is ",
            bytes_text(options.device_memory), "; ", all - std::min(all, options.device_memory),
            " bytes are missing. Give more, or choose another schedule");
    device = device::make_emulated({.memory = machine.memory,
                                    .failed_allocation = machine.failed_allocation,
                                    .failed_copy = machine.failed_copy,
                                    .no_pinning = machine.no_pinning},
                                   lanes, compute);
    device_ledger = std::make_shared<memory::Ledger>(options.device_memory);
    auto source = std::make_unique<residency::LinkSource>(
        *cache, catalog, device->make_stream(),
        store::times_by_record(*catalog, known_costs(), &policy::LaneCosts::link));
    residency::LinkSource* const link = source.get();
    device_cache = std::make_unique<residency::ExpertCache>(
        catalog, device_ledger, std::min(options.device_memory, std::max(all, 2 * record)), INT_MAX, std::move(source),
        policy::make_eviction(options.policy, {expert_set(), options.frequencies}), *clock,
        device::device_slots(device));
    caches.push_back(device_cache.get());
    return {device, device_cache.get(), link, options.copies};
}

// Reads ahead into the tier that others wait for: the device's memory where the host has all records, else the host's.
void Runtime::State::add_prefetcher() {
    if (options.prefetch == "none") return;
    policy::PredictorSettings settings = options.predictor;
    settings.experts = expert_set();
    const bool to_device = device_cache && cache->limit() >= catalog->record_bytes();
    policy::LaneCosts measured = options.emulated ? known_costs().front() : options.costs;
    if (to_device) measured.ssd = measured.link;
    prefetch_costs = exec::LiveCosts(measured, catalog->largest_record());
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
    require(bytes <= device->memory(), ErrorKind::budget, "device_memory of ", bytes_text(bytes), ": the device has ",
            bytes_text(device->memory()));
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
