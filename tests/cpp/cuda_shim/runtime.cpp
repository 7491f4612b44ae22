#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "cuda_runtime.h"
#include "shim.h"

using moestro::cuda_shim::Options;

namespace {

using Body = std::function<void()>;

// What is recorded in a stream: over when the stream has come to it.
struct Mark {
    CUstream_st* stream = nullptr;
    bool over = false;
};

// Work that is noted down instead of being put on a stream.
struct Capture {
    std::vector<Body> work;
    std::set<CUstream_st*> streams;
    CUstream_st* origin = nullptr;
    bool forbids_all = false;  // of this thread, whatever might wait
};

}  // namespace

struct CUstream_st {
    struct Operation {
        Body body;
        std::shared_ptr<Mark> after, mark;  // waits for one, or is one
    };
    std::deque<Operation> under_way;
    std::shared_ptr<Capture> capture;
};
struct CUevent_st {
    std::shared_ptr<Mark> mark;
    std::weak_ptr<Capture> captured;  // its last record was noted down there
};
struct CUgraph_st {
    std::vector<Body> work;
};
struct CUgraphExec_st {
    std::vector<Body> work;
};

namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kPlainShared = 48 << 10;  // more must be asked for

struct Allocation {
    std::byte* mapping = nullptr;
    std::size_t mapped = 0, bytes = 0;
    bool registered = false;  // of the host, by somebody else
};

struct State {
    Options options;
    std::optional<cudaError_t> broken;  // the first asynchronous failure: every later call answers with it
    cudaError_t last = cudaSuccess;
    std::map<std::byte*, Allocation> device, host;  // by where they begin
    std::size_t allocated = 0;
    CUstream_st default_stream;
    std::set<CUstream_st*> streams;
    std::set<CUevent_st*> events;
    std::set<CUgraph_st*> graphs;
    std::set<CUgraphExec_st*> executables;
    std::map<const void*, int> shared_limits;
    std::size_t launches = 0;
    int open = 0;  // operations under way now: device memory can be touched
    std::vector<std::weak_ptr<Capture>> captures;
};

State& state() {
    static State* const made = new State;
    return *made;
}

cudaError_t answer(cudaError_t error) {
    if (error != cudaSuccess && error != cudaErrorNotReady) state().last = error;
    return error;
}

// Whether the n-th of something is this one.
bool comes(int& countdown) {
    return countdown > 0 && --countdown == 0;
}
bool has_come(int& countdown) {
    if (countdown > 1) --countdown;
    return countdown == 1 && (countdown = 1, true);
}

cudaError_t unusable() {
    const State& s = state();
    if (s.options.unusable != cudaSuccess) return s.options.unusable;
    if (s.options.devices == 0) return cudaErrorNoDevice;
    return s.broken.value_or(cudaSuccess);
}

bool capturing_forbids() {
    auto& captures = state().captures;
    std::erase_if(captures, [](const auto& capture) { return capture.expired(); });
    return std::any_of(captures.begin(), captures.end(),
                       [](const auto& capture) { return capture.lock()->forbids_all; });
}

void protect(int how) {
    for (const auto& [begin, block] : state().device)
        if (mprotect(block.mapping, block.mapped, how) != 0) std::abort();
}

// Device memory is open while one lives.
class Open {
  public:
    Open() {
        if (state().open++ == 0) protect(PROT_READ | PROT_WRITE);
    }
    ~Open() {
        if (--state().open == 0) protect(PROT_NONE);
    }
};

const std::pair<std::byte* const, Allocation>* find(const std::map<std::byte*, Allocation>& in, const void* data) {
    auto* const at = static_cast<std::byte*>(const_cast<void*>(data));
    auto found = in.upper_bound(at);
    if (found == in.begin()) return nullptr;
    --found;
    return at < found->first + std::max<std::size_t>(found->second.bytes, 1) ? &*found : nullptr;
}

enum class Place { device, pinned, pageable };
struct Where {
    Place place = Place::pageable;
    bool inside = true;
};
Where where(const void* data, std::size_t bytes) {
    const auto* const at = static_cast<const std::byte*>(data);
    if (const auto* const found = find(state().device, data))
        return {Place::device, at + bytes <= found->first + found->second.bytes};
    if (const auto* const found = find(state().host, data))
        return {Place::pinned, at + bytes <= found->first + found->second.bytes};
    return {};
}

bool known(CUstream_st* stream) {
    return !stream || state().streams.contains(stream);
}
CUstream_st& stream_of(CUstream_st* stream) {
    return stream ? *stream : state().default_stream;
}

void run_until(const Mark& mark);

// The first operation of a stream, and what it waits for.
void run_one(CUstream_st& stream) {
    CUstream_st::Operation next = std::move(stream.under_way.front());
    stream.under_way.pop_front();
    if (next.after) run_until(*next.after);
    if (next.body && !state().broken) {
        const Open open;
        next.body();
    }
    if (next.mark) next.mark->over = true;
}

void run_until(const Mark& mark) {
    while (!mark.over) run_one(*mark.stream);
}

void run_all(CUstream_st& stream) {
    const Open open;
    while (!stream.under_way.empty()) run_one(stream);
}

cudaError_t put(CUstream_st* on, Body body) {
    CUstream_st& stream = stream_of(on);
    if (stream.capture)
        stream.capture->work.push_back(std::move(body));
    else
        stream.under_way.push_back({std::move(body), nullptr, nullptr});
    return cudaSuccess;
}

std::size_t shared_limit() {
    const Options& options = state().options;
    switch (10 * options.major + options.minor) {
        case 75:
            return 64 << 10;
        case 80:
        case 87:
            return 163 << 10;
        case 86:
        case 89:
        case 120:
        case 121:
            return 99 << 10;
        default:
            return 227 << 10;
    }
}

void break_with(cudaError_t error) {
    if (!state().broken) state().broken = error;
}

}  // namespace

namespace moestro::cuda_shim {

const Options& options() {
    return state().options;
}

void reset(const Options& options) {
    State& s = state();
    s.options = options;
    s.broken.reset();
    s.last = cudaSuccess;
    s.launches = 0;
    for (CUstream_st* const stream : s.streams) {
        stream->under_way.clear();
        stream->capture.reset();
    }
    s.default_stream.under_way.clear();
    s.default_stream.capture.reset();
    for (CUevent_st* const event : s.events)
        if (event->mark) event->mark->over = true;
}

void set_order(Order order, std::uint64_t seed) {
    state().options.order = order;
    state().options.seed = seed;
}

void set_blocks_at_once(std::size_t blocks) {
    state().options.blocks_at_once = blocks;
}

std::size_t launches() {
    return state().launches;
}

bool nothing_left() {
    const State& s = state();
    return s.device.empty() && s.host.empty() && s.streams.empty() && s.events.empty() && s.graphs.empty() &&
           s.executables.empty();
}

cudaError_t allow_shared(const void* kernel, int bytes) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (bytes < 0 || static_cast<std::size_t>(bytes) > shared_limit()) return answer(cudaErrorInvalidValue);
    state().shared_limits[kernel] = bytes;
    return cudaSuccess;
}

int resident_blocks(int threads, std::size_t shared_bytes) {
    if (threads <= 0 || threads > 1024 || shared_bytes > shared_limit()) return 0;
    const int by_threads = 2048 / ((threads + 31) / 32 * 32);
    const int by_shared = static_cast<int>(shared_limit() / std::max<std::size_t>(shared_bytes, 1024));
    return std::min({by_threads, by_shared, 32});
}

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, std::function<void()> thread) {
    State& s = state();
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(config.stream)) return answer(cudaErrorInvalidResourceHandle);
    if (comes(s.options.failed_launch)) return answer(cudaErrorLaunchFailure);
    const Shape grid{config.gridDim.x, config.gridDim.y, config.gridDim.z};
    const Shape block{config.blockDim.x, config.blockDim.y, config.blockDim.z};
    if (grid.count() == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || block.count() == 0 ||
        block.count() > 1024 || block.z > 64)
        return answer(cudaErrorInvalidConfiguration);
    const auto asked = s.shared_limits.find(kernel);
    const std::size_t limit =
        std::max(kPlainShared, asked == s.shared_limits.end() ? 0 : static_cast<std::size_t>(asked->second));
    if (config.dynamicSmemBytes > limit) return answer(cudaErrorInvalidValue);
    return put(config.stream, [grid, block, bytes = config.dynamicSmemBytes, thread = std::move(thread)] {
        ++state().launches;
        run_grid(grid, block, bytes, thread);
    });
}

}  // namespace moestro::cuda_shim

// ---- errors and devices ---------------------------------------------------------------------------------------------

const char* cudaGetErrorName(cudaError_t error) {
    switch (error) {
#define MOESTRO_SHIM_NAME(name) \
    case name:                  \
        return #name;
        MOESTRO_SHIM_NAME(cudaSuccess)
        MOESTRO_SHIM_NAME(cudaErrorInvalidValue)
        MOESTRO_SHIM_NAME(cudaErrorMemoryAllocation)
        MOESTRO_SHIM_NAME(cudaErrorInitializationError)
        MOESTRO_SHIM_NAME(cudaErrorInvalidConfiguration)
        MOESTRO_SHIM_NAME(cudaErrorInsufficientDriver)
        MOESTRO_SHIM_NAME(cudaErrorNoDevice)
        MOESTRO_SHIM_NAME(cudaErrorInvalidDevice)
        MOESTRO_SHIM_NAME(cudaErrorNoKernelImageForDevice)
        MOESTRO_SHIM_NAME(cudaErrorInvalidResourceHandle)
        MOESTRO_SHIM_NAME(cudaErrorNotReady)
        MOESTRO_SHIM_NAME(cudaErrorHostMemoryAlreadyRegistered)
        MOESTRO_SHIM_NAME(cudaErrorHostMemoryNotRegistered)
        MOESTRO_SHIM_NAME(cudaErrorIllegalAddress)
        MOESTRO_SHIM_NAME(cudaErrorLaunchFailure)
        MOESTRO_SHIM_NAME(cudaErrorNotSupported)
        MOESTRO_SHIM_NAME(cudaErrorSystemDriverMismatch)
        MOESTRO_SHIM_NAME(cudaErrorStreamCaptureUnsupported)
        MOESTRO_SHIM_NAME(cudaErrorStreamCaptureInvalidated)
        MOESTRO_SHIM_NAME(cudaErrorIllegalState)
        MOESTRO_SHIM_NAME(cudaErrorUnknown)
#undef MOESTRO_SHIM_NAME
    }
    return "an unknown error";
}
const char* cudaGetErrorString(cudaError_t error) {
    return cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() {
    const cudaError_t last = state().broken.value_or(state().last);
    state().last = cudaSuccess;
    return last;
}
cudaError_t cudaPeekAtLastError() {
    return state().broken.value_or(state().last);
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = state().options.driver;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = state().options.runtime;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
    *count = 0;
    if (const cudaError_t error = unusable()) return answer(error);
    *count = state().options.devices;
    return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
    if (const cudaError_t error = unusable()) return answer(error);
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
    if (const cudaError_t error = unusable()) return answer(error);
    return device < 0 || device >= state().options.devices ? answer(cudaErrorInvalidDevice) : cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
    if (const cudaError_t error = cudaSetDevice(device)) return error;
    const Options& options = state().options;
    *properties = {};
    std::strcpy(properties->name, "a processor as a GPU");
    properties->totalGlobalMem = options.memory;
    properties->sharedMemPerBlock = kPlainShared;
    properties->sharedMemPerBlockOptin = properties->sharedMemPerMultiprocessor = shared_limit();
    properties->major = options.major;
    properties->minor = options.minor;
    properties->multiProcessorCount = options.multiprocessors;
    properties->maxThreadsPerMultiProcessor = 2048;
    properties->warpSize = 32;
    properties->l2CacheSize = 4 << 20;
    properties->memoryBusWidth = 256;
    properties->asyncEngineCount = 2;
    properties->unifiedAddressing = properties->canMapHostMemory = properties->concurrentKernels = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
    cudaDeviceProp properties;
    if (const cudaError_t error = cudaGetDeviceProperties(&properties, device)) return error;
    switch (attribute) {
        case cudaDevAttrMaxSharedMemoryPerBlock:
            *value = static_cast<int>(properties.sharedMemPerBlock);
            break;
        case cudaDevAttrMultiProcessorCount:
            *value = properties.multiProcessorCount;
            break;
        case cudaDevAttrIntegrated:
            *value = properties.integrated;
            break;
        case cudaDevAttrL2CacheSize:
            *value = properties.l2CacheSize;
            break;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = properties.maxThreadsPerMultiProcessor;
            break;
        case cudaDevAttrAsyncEngineCount:
            *value = properties.asyncEngineCount;
            break;
        case cudaDevAttrComputeCapabilityMajor:
            *value = properties.major;
            break;
        case cudaDevAttrComputeCapabilityMinor:
            *value = properties.minor;
            break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
        case cudaDevAttrMaxSharedMemoryPerBlockOptin:
            *value = static_cast<int>(shared_limit());
            break;
    }
    return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int device) {
    if (const cudaError_t error = cudaSetDevice(device)) return error;
    std::strncpy(id, "0000:01:00.0", static_cast<std::size_t>(length));
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    if (const cudaError_t error = unusable()) return answer(error);
    if (capturing_forbids()) return answer(cudaErrorStreamCaptureUnsupported);
    for (CUstream_st* const stream : state().streams) run_all(*stream);
    run_all(state().default_stream);
    return answer(unusable());
}

// ---- memory ---------------------------------------------------------------------------------------------------------

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
    State& s = state();
    if (const cudaError_t error = unusable()) return answer(error);
    if (capturing_forbids()) return answer(cudaErrorStreamCaptureUnsupported);
    if (has_come(s.options.failed_malloc) || s.options.context + s.allocated + bytes > s.options.memory)
        return answer(cudaErrorMemoryAllocation);
    *data = nullptr;
    if (bytes == 0) return cudaSuccess;
    // Up to its last bytes, and behind them a page that nobody can touch.
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t used = (bytes + kAlignment - 1) / kAlignment * kAlignment;
    const std::size_t pages = (used + page - 1) / page * page;
    void* const mapping = mmap(nullptr, pages + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED) return answer(cudaErrorMemoryAllocation);
    auto* const begin = static_cast<std::byte*>(mapping);
    mprotect(mapping, pages, PROT_READ | PROT_WRITE);
    std::memset(mapping, 0xFF, pages);
    if (!s.open) mprotect(mapping, pages, PROT_NONE);
    s.device.emplace(begin + pages - used, Allocation{begin, pages, bytes});
    s.allocated += bytes;
    *data = begin + pages - used;
    return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
    State& s = state();
    if (!data) return answer(unusable());
    const auto found = s.device.find(static_cast<std::byte*>(data));
    if (found == s.device.end()) return answer(cudaErrorInvalidValue);
    if (!s.broken) cudaDeviceSynchronize();
    munmap(found->second.mapping, found->second.mapped + static_cast<std::size_t>(sysconf(_SC_PAGESIZE)));
    s.allocated -= found->second.bytes;
    s.device.erase(found);
    return answer(unusable());
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
    if (const cudaError_t error = unusable()) return answer(error);
    const State& s = state();
    *total = s.options.memory;
    *free = s.options.memory - s.options.context - s.allocated;
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned) {
    State& s = state();
    if (const cudaError_t error = unusable()) return answer(error);
    if (capturing_forbids()) return answer(cudaErrorStreamCaptureUnsupported);
    if (has_come(s.options.failed_host_alloc)) return answer(cudaErrorMemoryAllocation);
    const std::size_t rounded = (bytes + 4095) / 4096 * 4096;
    auto* const made = static_cast<std::byte*>(std::aligned_alloc(4096, std::max<std::size_t>(rounded, 4096)));
    if (!made) return answer(cudaErrorMemoryAllocation);
    std::memset(made, 0xFF, rounded);
    s.host.emplace(made, Allocation{nullptr, 0, bytes});
    *data = made;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
    State& s = state();
    if (!data) return cudaSuccess;
    const auto found = s.host.find(static_cast<std::byte*>(data));
    if (found == s.host.end()) return answer(cudaErrorInvalidValue);
    if (found->second.registered) return answer(cudaErrorInvalidValue);
    if (!s.broken) cudaDeviceSynchronize();
    s.host.erase(found);
    std::free(data);
    return answer(unusable());
}
cudaError_t cudaHostRegister(void* data, std::size_t bytes, unsigned) {
    State& s = state();
    if (const cudaError_t error = unusable()) return answer(error);
    if (has_come(s.options.failed_host_alloc)) return answer(cudaErrorMemoryAllocation);
    auto* const begin = static_cast<std::byte*>(data);
    for (const auto& [other, block] : s.host)
        if (begin < other + block.bytes && other < begin + bytes) return answer(cudaErrorHostMemoryAlreadyRegistered);
    s.host.emplace(begin, Allocation{nullptr, 0, bytes, true});
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* data) {
    State& s = state();
    const auto found = s.host.find(static_cast<std::byte*>(data));
    if (found == s.host.end() || !found->second.registered) return answer(cudaErrorHostMemoryNotRegistered);
    if (!s.broken) cudaDeviceSynchronize();
    s.host.erase(found);
    return answer(unusable());
}
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
    if (const cudaError_t error = unusable()) return answer(error);
    const Place place = where(data, 0).place;
    void* const at = const_cast<void*>(data);
    *attributes = {};
    if (place == Place::device) *attributes = {cudaMemoryTypeDevice, 0, at, nullptr};
    if (place == Place::pinned) *attributes = {cudaMemoryTypeHost, 0, at, at};
    if (place == Place::pageable) *attributes = {cudaMemoryTypeUnregistered, 0, nullptr, at};
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    State& s = state();
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
    if (bytes == 0) return cudaSuccess;
    const Where target = where(to, bytes), source = where(from, bytes);
    const bool up = target.place == Place::device, down = source.place == Place::device;
    const bool as_said =
        kind == cudaMemcpyDefault || ((kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice) == up &&
                                      (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) == down);
    if (!target.inside || !source.inside || !as_said || comes(s.options.refused_copy))
        return answer(cudaErrorInvalidValue);
    if (comes(s.options.failed_copy)) return put(stream, [] { break_with(cudaErrorIllegalAddress); });
    const bool waits = target.place == Place::pageable;
    if (stream_of(stream).capture && (waits || source.place == Place::pageable))
        return answer(cudaErrorStreamCaptureUnsupported);
    if (source.place == Place::pageable) {
        const auto* const begin = static_cast<const std::byte*>(from);
        put(stream, [to, taken = std::vector<std::byte>(begin, begin + bytes)] {
            std::memmove(to, taken.data(), taken.size());
        });
    } else {
        put(stream, [to, from, bytes] { std::memmove(to, from, bytes); });
    }
    return waits ? cudaStreamSynchronize(stream) : cudaSuccess;
}
cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
    if (capturing_forbids()) return answer(cudaErrorStreamCaptureUnsupported);
    if (const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr)) return error;
    return cudaStreamSynchronize(nullptr);
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_step, const void* from, std::size_t from_step, std::size_t bytes,
                              std::size_t rows, cudaMemcpyKind kind, cudaStream_t stream) {
    if (bytes > to_step || bytes > from_step) return answer(cudaErrorInvalidValue);
    for (std::size_t row = 0; row < rows; ++row)
        if (const cudaError_t error =
                cudaMemcpyAsync(static_cast<std::byte*>(to) + row * to_step,
                                static_cast<const std::byte*>(from) + row * from_step, bytes, kind, stream))
            return error;
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
    const Where target = where(to, bytes);
    if (!target.inside || target.place == Place::pageable) return answer(cudaErrorInvalidValue);
    return put(stream, [to, value, bytes] { std::memset(to, value, bytes); });
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
    return cudaMemsetAsync(to, value, bytes, nullptr);
}

// ---- streams and events ---------------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (flags != cudaStreamNonBlocking) return answer(cudaErrorNotSupported);
    *stream = *state().streams.insert(new CUstream_st).first;
    return cudaSuccess;
}
// What it was given is done all the same, by whoever waits for it.
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (!stream || !known(stream)) return answer(cudaErrorInvalidResourceHandle);
    if (!state().broken) run_all(*stream);
    for (CUstream_st::Operation& left : stream->under_way)
        if (left.mark) left.mark->over = true;
    state().streams.erase(stream);
    delete stream;
    return answer(unusable());
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
    if (stream_of(stream).capture) return answer(cudaErrorStreamCaptureUnsupported);
    run_all(stream_of(stream));
    return answer(unusable());
}
cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(stream)) return answer(cudaErrorInvalidResourceHandle);
    CUstream_st& asked = stream_of(stream);
    if (asked.capture) return answer(cudaErrorStreamCaptureUnsupported);
    if (asked.under_way.empty()) return cudaSuccess;
    run_one(asked);
    return unusable() != cudaSuccess ? answer(unusable()) : cudaErrorNotReady;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(stream) || !state().events.contains(event)) return answer(cudaErrorInvalidResourceHandle);
    CUstream_st& waits = stream_of(stream);
    if (const auto capture = event->captured.lock()) {  // it takes part from here on
        if (waits.capture && waits.capture != capture) return answer(cudaErrorStreamCaptureInvalidated);
        waits.capture = capture;
        capture->streams.insert(&waits);
        return cudaSuccess;
    }
    if (waits.capture) return answer(cudaErrorStreamCaptureUnsupported);  // on what was there before
    if (event->mark && !event->mark->over) waits.under_way.push_back({nullptr, event->mark, nullptr});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    if (const cudaError_t error = unusable()) return answer(error);
    *event = *state().events.insert(new CUevent_st).first;
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    if (!state().events.erase(event)) return answer(cudaErrorInvalidResourceHandle);
    delete event;
    return answer(unusable());
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(stream) || !state().events.contains(event)) return answer(cudaErrorInvalidResourceHandle);
    CUstream_st& on = stream_of(stream);
    event->captured = on.capture;
    if (on.capture) return cudaSuccess;
    event->mark = std::make_shared<Mark>(Mark{&on, false});
    on.under_way.push_back({nullptr, nullptr, event->mark});
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!state().events.contains(event)) return answer(cudaErrorInvalidResourceHandle);
    if (event->captured.lock()) return answer(cudaErrorStreamCaptureUnsupported);
    if (!event->mark || event->mark->over) return cudaSuccess;
    run_one(*event->mark->stream);
    return unusable() != cudaSuccess ? answer(unusable()) : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!state().events.contains(event)) return answer(cudaErrorInvalidResourceHandle);
    if (event->captured.lock()) return answer(cudaErrorStreamCaptureUnsupported);
    if (event->mark) run_until(*event->mark);
    return answer(unusable());
}

// ---- graphs ---------------------------------------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!stream || !known(stream)) return answer(cudaErrorStreamCaptureUnsupported);
    if (stream->capture) return answer(cudaErrorIllegalState);
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->capture->streams.insert(stream);
    stream->capture->forbids_all = mode != cudaStreamCaptureModeRelaxed;
    state().captures.push_back(stream->capture);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!stream || !known(stream) || !stream->capture || stream->capture->origin != stream)
        return answer(cudaErrorIllegalState);
    const std::shared_ptr<Capture> capture = stream->capture;
    for (CUstream_st* const part : capture->streams) part->capture.reset();
    *graph = *state().graphs.insert(new CUgraph_st{std::move(capture->work)}).first;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* made, cudaGraph_t graph, unsigned long long) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!state().graphs.contains(graph)) return answer(cudaErrorInvalidValue);
    *made = *state().executables.insert(new CUgraphExec_st{graph->work}).first;
    return cudaSuccess;
}
// In the order in which it was noted down: one of those that its events allow.
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    if (const cudaError_t error = unusable()) return answer(error);
    if (!known(stream) || !state().executables.contains(graph)) return answer(cudaErrorInvalidResourceHandle);
    return put(stream, [work = graph->work] {
        for (const Body& body : work)
            if (!state().broken) body();
    });
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    if (!state().graphs.erase(graph)) return answer(cudaErrorInvalidValue);
    delete graph;
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    if (!state().executables.erase(graph)) return answer(cudaErrorInvalidValue);
    delete graph;
    return cudaSuccess;
}
