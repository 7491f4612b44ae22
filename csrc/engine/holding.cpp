// The part of Runtime for people who run experts themselves: records pinned one by one.
#include <array>

#include "base/error.h"
#include "engine/entry.h"
#include "engine/runtime_state.h"

namespace moestro::engine {

namespace {

// Starts the record's read, waiting for room as long as some read may end and make it.
void start(residency::ExpertCache& cache, ExpertId id) {
    while (!cache.start_load(id, true)) {
        require(cache.loading() > 0, ErrorKind::usage, "layer ", id.layer, ", expert ", id.expert,
                ": every expert slot is held: release an expert first, or give more host_memory");
        cache.wait();
    }
    cache.flush();
}

}  // namespace

ExpertId Runtime::State::expert(int layer, int expert) const {
    static_cast<void>(experts());  // throws before set_experts
    const int count = catalog->layer(layer).experts();
    require(expert >= 0 && expert < count, ErrorKind::usage, "layer ", layer, " has experts 0 to ", count - 1, ", not ",
            expert);
    return {layer, expert};
}

int Runtime::prefetch(int layer, std::span<const std::int32_t> experts) {
    const Entry entry(*state_);
    residency::ExpertCache* cache = nullptr;
    int started = 0;
    for (const std::int32_t number : experts) {
        const ExpertId id = state_->expert(layer, number);
        cache = state_->cache.get();
        if (cache->state(id) != residency::State::absent) continue;
        if (!cache->start_load(id, false)) break;
        ++started;
    }
    if (cache) cache->poll();
    return started;
}

std::array<MatrixHandle, 3> Runtime::acquire(int layer, int expert) {
    const Entry entry(*state_);
    const ExpertId id = state_->expert(layer, expert);
    residency::ExpertCache& cache = *state_->cache;
    HeldExpert& held = state_->held[id];
    if (held.count == 0) {
        try {
            if (cache.state(id) == residency::State::absent) start(cache, id);
            held.pin = cache.pin(id);
            while (held.pin.state() == residency::State::loading) cache.wait();
            if (held.pin.state() == residency::State::failed) throw Error(held.pin.error());
        } catch (...) {
            state_->held.erase(id);
            throw;
        }
        const store::ExpertLayer& of = state_->catalog->layer(layer);
        held.matrices = std::make_shared<std::array<kernels::Matrix, 3>>();
        for (std::size_t i = 0; i < 3; ++i)
            (*held.matrices)[i] = {held.pin.data() + of.parts()[i]->offset, of.parts()[i]->spec,
                                   of.bias(static_cast<int>(i), expert)};
    }
    ++held.count;
    std::array<MatrixHandle, 3> handles;
    for (std::size_t i = 0; i < 3; ++i) handles[i] = {held.matrices, &(*held.matrices)[i]};
    return handles;
}

void Runtime::release(int layer, int expert) {
    const Entry entry(*state_);
    const auto held = state_->held.find(state_->expert(layer, expert));
    require(held != state_->held.end(), ErrorKind::usage, "layer ", layer, ", expert ", expert, " is not held");
    if (--held->second.count > 0) return;
    state_->held.erase(held);
}

HeldExpert::~HeldExpert() {
    if (matrices)
        for (kernels::Matrix& matrix : *matrices) matrix.data = nullptr;  // whoever kept one is told when using it
}

}  // namespace moestro::engine
