// The part of Runtime that runs before the first step: files, trunk, expert cache, KV pool.
#include <algorithm>
#include <climits>

#include "base/bytes.h"
#include "base/error.h"
#include "device/device_slots.h"
#include "engine/entry.h"
#include "engine/runtime_state.h"

namespace moestro::engine {

namespace {

// Bytes for the expert cache: what is left, as far as there are records to fill it.
std::size_t cache_limit(const store::Catalog& catalog, const memory::Ledger& ledger, std::optional<int> slots) {
    const std::size_t record = catalog.largest_record(), least = 2 * record, free = ledger.free();
    if (slots) return static_cast<std::size_t>(*slots) * record;
    require(free >= least, ErrorKind::budget, "the memory budget of ", bytes_text(ledger.budget()),
            " has no room for two expert slots of ", bytes_text(record), ": ", bytes_text(free), " free, ",
            bytes_text(least - free), " (", least - free, " bytes) missing; held: ", ledger.summary(),
            ". Give more host_memory");
    return std::min(free, std::max(least, static_cast<std::size_t>(catalog.record_bytes())));
}

}  // namespace

// A matrix that was loaded: from here on in the device's memory, where the trunk computes there.
MatrixHandle Runtime::State::keep(MatrixHandle loaded) {
    if (!accelerator) return loaded;
    struct There {
        std::shared_ptr<memory::Ledger> ledger;
        std::size_t bytes = 0;
        std::shared_ptr<std::byte> memory = {};
        kernels::Matrix matrix = {};
        ~There() { ledger->give("trunk", bytes); }
    };
    const std::size_t weights = loaded->spec.bytes(),
                      bias = loaded->bias ? static_cast<std::size_t>(loaded->spec.rows) * sizeof(float) : 0;
    device_ledger->take("trunk", weights + bias);
    const auto there = std::make_shared<There>(device_ledger, weights + bias);
    there->memory = accelerator->allocate(weights + bias);
    accelerator->put(there->memory.get(), loaded->data, weights);
    there->matrix = {there->memory.get(), loaded->spec, nullptr};
    if (bias) {
        accelerator->put(there->memory.get() + weights, loaded->bias, bias);
        there->matrix.bias = reinterpret_cast<const float*>(there->memory.get() + weights);
    }
    return {there, &there->matrix};
}

int Runtime::open_file(const std::string& path) {
    const Entry entry(*state_);
    const auto known = state_->file_numbers.find(path);
    if (known != state_->file_numbers.end()) return known->second;
    std::shared_ptr<const io::File> file = io::File::open(path, state_->options.cache);
    std::lock_guard lock(state_->looking);
    state_->files.push_back(std::move(file));
    return state_->file_numbers[path] = static_cast<int>(state_->files.size()) - 1;
}

MatrixHandle Runtime::load_matrix(const std::string& name, const TensorSlice& slice, quant::Format format,
                                  std::span<const float> bias) {
    const Entry entry(*state_);
    state_->settle();
    return state_->keep(
        state_->trunk.load_matrix(name, store::file_at(state_->files, slice.file), slice, format, bias));
}

std::vector<MatrixHandle> Runtime::load_record(const std::string& name, const RecordExtent& extent,
                                               std::span<const Part> parts,
                                               std::span<const std::span<const float>> biases) {
    const Entry entry(*state_);
    state_->settle();
    std::vector<MatrixHandle> loaded =
        state_->trunk.load_record(name, store::file_at(state_->files, extent.file), extent, parts, biases);
    for (MatrixHandle& matrix : loaded) matrix = state_->keep(std::move(matrix));
    return loaded;
}

std::vector<MatrixHandle> Runtime::stream_record(const std::string& name, const RecordExtent& extent,
                                                 std::span<const Part> parts,
                                                 std::span<const std::span<const float>> biases) {
    const Entry entry(*state_);
    return state_->units_to_add().add(name, store::file_at(state_->files, extent.file), extent, parts, biases);
}

std::vector<MatrixHandle> Runtime::stream_matrices(const std::string& name, std::span<const StreamedMatrix> matrices) {
    const Entry entry(*state_);
    std::vector<store::TrunkUnits::Piece> pieces;
    for (const auto& [slice, format, bias] : matrices)
        pieces.push_back({store::file_at(state_->files, slice.file), slice, format, bias});
    return state_->units_to_add().add(name, pieces);
}

void Runtime::set_stream(const StreamOptions& options) {
    const Entry entry(*state_);
    State& state = *state_;
    require(state.units && !state.stream, ErrorKind::usage,
            "set_stream is called once, after units were given with stream_record or stream_matrices");
    residency::StreamReading reading;
    const bool packed = state.units->packed();
    if (!packed) reading.staging = std::make_unique<memory::Staging>(state.ledger, staging_bytes());
    // One thread: the stream's own, which works beside those that compute.
    reading.pool = std::make_unique<ThreadPool>(1);
    reading.reader = state.make_reader(packed ? std::span<std::byte>() : reading.staging->memory());
    reading.source =
        packed ? make_packed_source(state.units, *reading.reader, *reading.pool, state.options.verify, *state.clock)
               : make_checkpoint_source(state.units, *reading.reader, *reading.staging, *reading.pool, *state.clock);
    state.stream =
        std::make_unique<residency::LayerStream>(state.units, state.ledger, options, std::move(reading), *state.clock);
    if (state.trace->on()) state.stream->set_trace(state.trace.get());
}

void Runtime::set_experts(std::vector<ExpertLayer> layers) {
    const Entry entry(*state_);
    State& state = *state_;
    require(!state.cache, ErrorKind::usage, "set_experts was called before: a runtime serves one model");
    auto catalog = std::make_shared<const store::Catalog>(std::move(layers), state.files);
    const std::size_t limit = cache_limit(*catalog, *state.ledger, state.options.expert_slots);
    state.catalog = std::move(catalog);
    state.cache = std::make_unique<residency::ExpertCache>(
        state.catalog, state.ledger, limit, state.options.expert_slots.value_or(INT_MAX), state.disk(),
        policy::make_eviction(state.options.policy, {state.expert_set(), state.options.frequencies}), *state.clock,
        state.options.cuda ? device::pinned_slots(state.device) : memory::host_slots());
    state.caches.push_back(state.cache.get());
    try {
        state.add_runner();
        state.add_prefetcher();
    } catch (...) {
        state.drop_experts();
        throw;
    }
    if (state.trace->on()) {
        state.cache->set_trace(state.trace.get());
        if (state.device_cache) state.device_cache->set_trace(state.trace.get(), Lane::link);
        state.runner->schedule().set_trace(state.trace.get());
    }
}

void Runtime::reserve_rows(int rows, int top_k, int hidden) {
    const Entry entry(*state_);
    if (state_->accelerator && state_->runner) state_->runner->reserve(rows, top_k, hidden);
}

memory::KvPool& Runtime::set_kv(const kernels::KvLayout& layout, int layers) {
    const Entry entry(*state_);
    require(!state_->kv, ErrorKind::usage, "set_kv was called before: a runtime has one KV pool");
    State& state = *state_;
    if (state.accelerator)
        state.kv = std::make_unique<memory::KvPool>(layout, layers, state.device_ledger, state.device_lender,
                                                    state.accelerator);
    else
        state.kv = std::make_unique<memory::KvPool>(layout, layers, state.ledger, state);
    return *state.kv;
}

}  // namespace moestro::engine
