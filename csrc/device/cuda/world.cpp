#include "device/cuda/world.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "base/bytes.h"
#include "base/types.h"
#include "device/cuda/errors.h"
#include "kernels/cuda/launch.h"

namespace moestro::device::cuda {

namespace {

using kernels::cuda::Fault;

const char* text_of(Fault fault) {
    switch (fault) {
        case Fault::norm:
            return "the input of a norm is not finite (on the device)";
        case Fault::router:
            return "a router's logit is not finite (on the device)";
        case Fault::kv:
            return "attention: a key or value is not finite in the KV cache's type (on the device); kv_dtype='f32' has "
                   "the "
                   "widest range";
        case Fault::none:
        case Fault::quantise:
            break;
    }
    return "an activation about to be quantised is not finite (on the device)";
}

Arena arena_of(std::size_t bytes, const char* what) {
    if (bytes == 0) return {};
    const std::size_t size = round_up(bytes, Arena::kAlignment);
    void* data = nullptr;
    const cudaError_t status = cudaMalloc(&data, size);
    if (status == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        std::size_t free = 0, total = 0;
        check(cudaMemGetInfo(&free, &total), "say how much memory is free");
        fail(ErrorKind::budget, "the device has no ", bytes_text(size), " for ", what, ": ", bytes_text(free), " of ",
             bytes_text(total), " are free, with what CUDA itself and other programs take");
    }
    check(status, "allocate device memory");
    return {static_cast<std::byte*>(data), size};
}

}  // namespace

// ---- events ---------------------------------------------------------------------------------------------------------

Done::Done(std::shared_ptr<World> world) : world_(std::move(world)), event_(world_->take_event()) {}

Done::~Done() {
    if (event_) world_->give_event(event_);  // never recorded
}

bool Done::over() {
    if (!event_) return true;
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) return false;
    settle(status);
    return true;
}

void Done::wait() {
    if (event_) settle(cudaEventSynchronize(event_));
}

void Done::settle(cudaError_t status) {
    if (status != cudaSuccess) {
        cudaGetLastError();
        error_ = error_of(status, "finish an operation", kind);
    } else if (fault && *fault != 0) {
        error_.emplace(ErrorKind::numeric, text_of(static_cast<Fault>(*fault)));
    }
    world_->give_event(std::exchange(event_, nullptr));
    keeps.clear();
}

void Done::check() {
    if (error_) throw Error(*error_);
}

// ---- memory ---------------------------------------------------------------------------------------------------------

World::World(const CudaOptions& given) : options(given) {
    enter();
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, options.ordinal), "describe the device", ErrorKind::unsupported);
    name = text("cuda:", options.ordinal, " (", properties.name, ")");
    memory = arena_of(options.memory, "device_memory");
    try {
        work = arena_of(options.work, "launches");
    } catch (...) {
        cudaFree(memory.begin());
        throw;
    }
}

World::~World() {
    cudaSetDevice(options.ordinal);
    for (const cudaEvent_t event : events_) cudaEventDestroy(event);
    cudaFree(work.begin());
    cudaFree(memory.begin());
    cudaGetLastError();
}

void World::enter() const {
    check(cudaSetDevice(options.ordinal), "use the device", ErrorKind::unsupported);
}

Buffer World::allocate(std::size_t bytes) {
    std::byte* const data = memory.take(bytes);
    if (!data) {
        const std::size_t free = options.memory - std::min(options.memory, memory.taken());
        fail(ErrorKind::budget, name, " refused ", bytes_text(bytes), ": ", bytes_text(free), " of ",
             bytes_text(options.memory), " are free",
             bytes <= free ? text(", no more than ", bytes_text(memory.largest_gap()), " in one piece") : "");
    }
    return {shared_from_this(), data, bytes};
}

Buffer World::allocate_work(std::size_t bytes) {
    std::byte* const data = work.take(bytes);
    return data ? Buffer(shared_from_this(), data, bytes) : Buffer();
}

Buffer World::allocate_host(std::size_t bytes) {
    enter();
    const std::size_t size = round_up(std::max<std::size_t>(bytes, 1), kPageBytes);
    void* data = nullptr;
    const bool pinned = cudaHostAlloc(&data, size, cudaHostAllocPortable | cudaHostAllocMapped) == cudaSuccess;
    if (!pinned) {
        cudaGetLastError();
        data = std::aligned_alloc(kPageBytes, size);
        require(data, ErrorKind::budget, "the system has no ", bytes_text(size), " of memory");
    }
    auto* const begin = static_cast<std::byte*>(data);
    host_.emplace(begin, HostBlock{begin, bytes, pinned});
    return {shared_from_this(), begin, bytes, pinned};
}

void World::give_back(std::byte* data) noexcept {
    if (memory.owns(data)) return memory.give(data);
    if (work.owns(data)) return work.give(data);
    const auto block = host_.find(data);
    if (block->second.pinned)
        cudaFreeHost(data);
    else
        std::free(data);
    host_.erase(block);
}

bool World::pin(std::byte* data, std::size_t bytes) {
    enter();
    if (cudaHostRegister(data, bytes, cudaHostRegisterPortable | cudaHostRegisterMapped) == cudaSuccess) return true;
    cudaGetLastError();
    return false;
}

void World::unpin(std::byte* data) noexcept {
    cudaHostUnregister(data);
}

bool World::on_device(const void* data) const {
    const auto* const at = static_cast<const std::byte*>(data);
    return memory.owns(at) || work.owns(at);
}

const World::HostBlock* World::host_block(const std::byte* at) const {
    auto block = host_.upper_bound(at);
    if (block == host_.begin()) return nullptr;
    --block;
    return at < block->first + block->second.bytes ? &block->second : nullptr;
}

bool World::reaches(const void* host) const {
    const HostBlock* const block = host_block(static_cast<const std::byte*>(host));
    return block && block->pinned;
}

void World::require_inside(const void* data, std::size_t bytes) const {
    const auto* const at = static_cast<const std::byte*>(data);
    bool inside = true;
    if (memory.owns(at)) {
        inside = memory.inside_one(at, bytes);
    } else if (work.owns(at)) {
        inside = work.inside_one(at, bytes);
    } else if (const HostBlock* const block = host_block(at)) {
        inside = at + bytes <= block->begin + block->bytes;
    }
    require(inside, ErrorKind::internal, name, ": a range of ", bytes_text(bytes), " is outside its buffer");
}

// ---- what is under way ----------------------------------------------------------------------------------------------

cudaEvent_t World::take_event() {
    if (!events_.empty()) {
        const cudaEvent_t event = events_.back();
        events_.pop_back();
        return event;
    }
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make an event");
    return event;
}

void World::give_event(cudaEvent_t event) noexcept {
    events_.push_back(event);
}

void World::add(std::shared_ptr<Done> done) {
    constexpr std::size_t kMany = 256;
    under_way_.push_back(std::move(done));
    if (under_way_.size() % kMany == 0) look();
}

bool World::look() {
    return std::erase_if(under_way_, [](const std::shared_ptr<Done>& one) { return one->over(); }) > 0;
}

bool World::wait_any() {
    constexpr int kSpins = 100;
    constexpr std::chrono::microseconds kNap{20};
    std::erase_if(under_way_, [](const std::shared_ptr<Done>& one) { return !one->event(); });  // others have seen them
    for (int turn = 0; !under_way_.empty(); ++turn) {
        if (look()) return true;
        if (turn < kSpins)
            std::this_thread::yield();
        else
            std::this_thread::sleep_for(kNap);
    }
    return false;
}

}  // namespace moestro::device::cuda
