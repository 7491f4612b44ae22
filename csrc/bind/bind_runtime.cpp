// Runtime and Ticket: construction, steps, and what can be looked at.
#include <pybind11/stl.h>

#include <optional>
#include <string>

#include "bind/routing.h"
#include "bind/runtime_ref.h"
#include "device/cuda.h"
#include "residency/layer_stream.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

using Pair = std::pair<double, double>;

engine::EmulatedMachine make_machine(std::size_t memory, std::vector<policy::LaneCosts> costs, const Pair& layer,
                                     const Pair& step, int failed_allocation, int failed_copy, bool no_pinning) {
    return {.costs = std::move(costs),
            .layer = {layer.first, layer.second},
            .step = {step.first, step.second},
            .memory = memory,
            .failed_allocation = failed_allocation,
            .failed_copy = failed_copy,
            .no_pinning = no_pinning};
}

RuntimeRef make_runtime(int threads, std::size_t host_memory, const std::string& isa, const std::string& math,
                        const std::string& cache, const std::string& reader, int io_depth, std::size_t io_read_bytes,
                        const std::string& verify, const std::string& policy, std::optional<int> expert_slots,
                        const std::string& faults, std::size_t trace_events, std::vector<double> frequencies,
                        const std::string& prefetch, const policy::PredictorSettings* predictor,
                        const std::optional<py::object>& offsets, const policy::LaneCosts* costs, int record_rows,
                        int record_ahead, const engine::EmulatedMachine* emulated, std::size_t device_memory,
                        const std::string& copies, const std::string& schedule,
                        const std::optional<engine::CudaMachine>& cuda) {
    engine::RuntimeOptions options;
    options.threads = threads;
    options.isa = isa;
    options.math = kernels::parse_math(math);
    options.host_memory = host_memory;
    options.cache = io::parse_cache(cache);
    options.engine = reader;
    options.io_depth = io_depth;
    options.io_read_bytes = io_read_bytes;
    options.verify = store::parse_verify(verify);
    options.policy = policy;
    options.expert_slots = expert_slots;
    options.faults = faults;
    options.trace_events = trace_events;
    options.frequencies = std::move(frequencies);
    options.prefetch = prefetch;
    if (predictor) options.predictor = *predictor;
    if (offsets) options.offsets = offset_lists(*offsets);
    if (costs) options.costs = *costs;
    options.record_rows = record_rows;
    options.record_ahead = record_ahead;
    if (emulated) options.emulated = *emulated;
    options.device_memory = device_memory;
    options.copies = residency::parse_copies(copies);
    options.schedule = schedule;
    options.cuda = cuda;
    RuntimeRef made;
    py::gil_scoped_release released;
    made.slot->runtime = std::make_shared<engine::Runtime>(options);
    return made;
}

std::span<const std::uint8_t> flags(const std::optional<View<const std::uint8_t>>& view) {
    if (!view) return {};
    return {view->data, static_cast<std::size_t>(view->size())};
}

std::optional<View<const std::uint8_t>> flags_view(const std::optional<py::object>& object, const char* argument) {
    if (!object) return std::nullopt;
    return input<std::uint8_t>(*object, argument, Shape::exactly({kAny}));
}

void begin_step(const RuntimeRef& self, int rows, const std::optional<py::object>& tentative, std::optional<int> units,
                const std::optional<py::object>& tokens) {
    const auto runtime = self.slot->open();
    const auto view = flags_view(tentative, "tentative");
    std::optional<View<const std::int32_t>> ids;
    if (tokens) ids = input<std::int32_t>(*tokens, "tokens", Shape::exactly({rows}));
    py::gil_scoped_release released;
    runtime->begin_step(rows, flags(view), units,
                        ids ? std::span(ids->data, static_cast<std::size_t>(rows)) : std::span<const std::int32_t>());
}

void hold_unit(const RuntimeRef& self, int unit) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->hold_unit(unit);
}

void release_unit(const RuntimeRef& self, int unit) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->release_unit(unit);
}

TicketRef submit_experts(const RuntimeRef& self, int layer, const py::object& x, const py::object& ids,
                         const py::object& weights, const std::optional<py::object>& logits) {
    const auto runtime = self.slot->open();
    auto rows = input<float>(x, "x", Shape::exactly({kAny, runtime->hidden(layer)}));
    const auto experts = input<std::int32_t>(ids, "ids", Shape::exactly({rows.shape[0], kAny}));
    const auto scores = input<float>(weights, "weights", Shape::exactly(experts.shape));
    const int count = size32(rows.shape[0], "x"), top_k = size32(experts.shape[1], "ids");
    std::optional<View<const float>> thought;
    if (logits) thought = input<float>(*logits, "logits", Shape::exactly({rows.shape[0], runtime->experts(layer)}));
    engine::Ticket ticket;
    {
        py::gil_scoped_release released;
        ticket = runtime->submit_experts(layer, rows.data, count, experts.data, scores.data, top_k,
                                         thought ? thought->data : nullptr);
    }
    return {std::move(ticket), std::move(rows)};
}

void wait(const RuntimeRef& self, TicketRef& ticket, const py::object& out) {
    const auto runtime = self.slot->open();
    const auto y = output<float>(out, "out", Shape::exactly({ticket.ticket.rows(), ticket.ticket.hidden()}));
    py::gil_scoped_release released;
    runtime->wait(ticket.ticket, y.data);
}

void end_step(const RuntimeRef& self, const std::optional<py::object>& accepted) {
    const auto runtime = self.slot->open();
    const auto view = flags_view(accepted, "accepted");
    py::gil_scoped_release released;
    runtime->end_step(flags(view));
}

void abort_step(const RuntimeRef& self) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->abort_step();
}

int prefetch(const RuntimeRef& self, int layer, const std::vector<std::int32_t>& experts) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    return runtime->prefetch(layer, experts);
}

py::tuple acquire(const RuntimeRef& self, int layer, int expert) {
    const auto runtime = self.slot->open();
    std::array<engine::MatrixHandle, 3> held;
    {
        py::gil_scoped_release released;
        held = runtime->acquire(layer, expert);
    }
    return py::make_tuple(MatrixRef{held[0]}, MatrixRef{held[1]}, MatrixRef{held[2]});
}

void release(const RuntimeRef& self, int layer, int expert) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->release(layer, expert);
}

py::dict counters(const RuntimeRef& self) {
    const engine::Counters now = self.slot->open()->counters();
    return py::dict("hits"_a = now.hits, "misses"_a = now.misses, "joined"_a = now.joined,
                    "evictions"_a = now.evictions, "expert_bytes_read"_a = now.expert_bytes_read,
                    "trunk_bytes_read"_a = now.trunk_bytes_read, "reads"_a = now.reads, "compute_ns"_a = now.compute_ns,
                    "stall_ns"_a = now.stall_ns, "arrival_ns"_a = now.arrival_ns, "read_busy_ns"_a = now.read_busy_ns,
                    "stream_bytes_read"_a = now.stream_bytes_read, "stream_stall_ns"_a = now.stream_stall_ns,
                    "stream_arrival_ns"_a = now.stream_arrival_ns, "stream_read_busy_ns"_a = now.stream_read_busy_ns,
                    "compute_queued_ns"_a = now.compute_queued_ns, "read_queued_ns"_a = now.read_queued_ns,
                    "stream_queued_ns"_a = now.stream_queued_ns, "on_device"_a = now.on_device,
                    "link_bytes"_a = now.link_bytes, "device_evictions"_a = now.device_evictions,
                    "device_ns"_a = now.device_ns, "link_busy_ns"_a = now.link_busy_ns, "clock_ns"_a = now.clock_ns,
                    "steps"_a = now.steps, "rows"_a = now.rows);
}

py::list prefetch_counters(const RuntimeRef& self) {
    return prefetch_dicts(self.slot->open()->prefetch_counters());
}

py::tuple take_record(const RuntimeRef& self) {
    const auto runtime = self.slot->open();
    engine::Recorded taken;
    {
        py::gil_scoped_release released;
        taken = runtime->take_record();
    }
    return py::make_tuple(std::move(taken.routing), offset_array(taken.offsets), taken.rows_lost);
}

// One dict per event, oldest first, and how many had no room.
py::tuple take_trace(const RuntimeRef& self) {
    const auto runtime = self.slot->open();
    std::uint64_t lost = 0;
    py::list events;
    for (const TraceEvent& event : runtime->trace()->take(lost))
        events.append(py::dict("lane"_a = name(event.lane), "activity"_a = name(event.activity),
                               "layer"_a = event.layer, "item"_a = event.item, "count"_a = event.count,
                               "nbytes"_a = event.bytes, "submitted"_a = event.submitted, "started"_a = event.started,
                               "done"_a = event.done));
    return py::make_tuple(events, lost);
}

py::dict residency(const RuntimeRef& self) {
    const engine::Residency now = self.slot->open()->residency();
    return py::dict("slots"_a = now.slots, "resident"_a = now.resident, "slot_bytes"_a = now.slot_bytes,
                    "expert_bytes_resident"_a = now.expert_bytes_resident,
                    "expert_bytes_total"_a = now.expert_bytes_total, "units"_a = now.units,
                    "units_kept"_a = now.units_kept, "device_slots"_a = now.device_slots,
                    "device_resident"_a = now.device_resident, "device_bytes"_a = now.device_bytes,
                    "device_peak"_a = now.device_peak);
}

py::dict info(const RuntimeRef& self) {
    const auto runtime = self.slot->open();
    const io::ReaderInfo reader = runtime->reader_info();
    return py::dict("isa"_a = kernels::name(runtime->compute()->isa().active),
                    "math"_a = kernels::name(runtime->compute()->isa().math),
                    "threads"_a = runtime->compute()->pool().threads(), "reader"_a = reader.engine,
                    "depth"_a = reader.depth, "registered_bytes"_a = reader.registered_bytes,
                    "file_mode"_a = runtime->file_mode(), "refused"_a = runtime->refused());
}

std::size_t scratch_bytes(std::int64_t rows, std::int64_t top_k, std::int64_t hidden, std::int64_t intermediate,
                          bool integer, std::int64_t layers, const std::string& math, std::int64_t ahead) {
    return engine::Runtime::scratch_bytes(rows, top_k, hidden, intermediate, integer, layers, kernels::parse_math(math),
                                          ahead);
}

void resize(const RuntimeRef& self, std::optional<std::size_t> host_memory, std::optional<std::size_t> device_memory) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->resize(host_memory, device_memory);
}

void reserve_rows(const RuntimeRef& self, int rows, int top_k, int hidden) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->reserve_rows(rows, top_k, hidden);
}

void check_integrity(const RuntimeRef& self) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->check_integrity();
}

void close(RuntimeRef& self) {
    std::shared_ptr<engine::Runtime> last = std::move(self.slot->runtime);
    self.layers.clear();
    py::gil_scoped_release released;
    last.reset();
}

void bind_class(py::module_& module) {
    py::class_<engine::CudaMachine>(module, "CudaMachine", "A CUDA device, and whether the trunk computes there too.")
        .def(py::init([](int ordinal, bool trunk, std::size_t work) {
                 return engine::CudaMachine{ordinal, trunk, work};
             }),
             py::kw_only(), "ordinal"_a = 0, "trunk"_a = false, "work"_a = engine::CudaMachine().work);
    py::class_<engine::EmulatedMachine>(module, "EmulatedMachine", "A machine with a device, on a virtual clock.")
        .def(py::init(&make_machine), py::kw_only(), "memory"_a, "costs"_a, "layer"_a = Pair(), "step"_a = Pair(),
             "failed_allocation"_a = 0, "failed_copy"_a = 0, "no_pinning"_a = false);
    RuntimeClass runtime(module, "Runtime", "The budget, the files, the expert cache, the KV blocks and the threads.");
    runtime
        .def(py::init(&make_runtime), py::kw_only(), "threads"_a, "host_memory"_a, "isa"_a = "", "math"_a = "exact",
             "cache"_a = "direct", "reader"_a = "auto", "io_depth"_a = 0, "io_read_bytes"_a = 0, "verify"_a = "first",
             "policy"_a = "lru", "expert_slots"_a = py::none(), "faults"_a = "", "trace_events"_a = 0,
             "frequencies"_a = std::vector<double>(), "prefetch"_a = "none", "predictor"_a = py::none(),
             "offsets"_a = py::none(), "costs"_a = py::none(), "record_rows"_a = 0, "record_ahead"_a = 0,
             "emulated"_a = py::none(), "device_memory"_a = 0, "copies"_a = "inclusive", "schedule"_a = "hybrid",
             "cuda"_a = py::none())
        .def_property_readonly("compute", [](const RuntimeRef& self) { return self.slot->open()->compute(); })
        .def_property_readonly("ledger", [](const RuntimeRef& self) { return self.slot->open()->ledger(); })
        .def_property_readonly("device_ledger",
                               [](const RuntimeRef& self) { return self.slot->open()->device_ledger(); })
        .def_property_readonly("virtual_time", [](const RuntimeRef& self) { return self.slot->open()->virtual_time(); })
        .def("begin_step", &begin_step, "rows"_a, "tentative"_a = py::none(), "units"_a = py::none(),
             "tokens"_a = py::none())
        .def("hold_unit", &hold_unit, "unit"_a)
        .def("release_unit", &release_unit, "unit"_a)
        .def("submit_experts", &submit_experts, "layer"_a, "x"_a, "ids"_a, "weights"_a, "logits"_a = py::none())
        .def("wait", &wait, "ticket"_a, "out"_a)
        .def("end_step", &end_step, "accepted"_a = py::none())
        .def("abort_step", &abort_step)
        .def("prefetch", &prefetch, "layer"_a, "experts"_a)
        .def("acquire", &acquire, "layer"_a, "expert"_a)
        .def("release", &release, "layer"_a, "expert"_a)
        .def("counters", &counters)
        .def("residency", &residency)
        .def("prefetch_counters", &prefetch_counters)
        .def("take_record", &take_record)
        .def("record_sizes", [](const RuntimeRef& self) { return self.slot->open()->record_sizes(); })
        .def("take_trace", &take_trace)
        .def("info", &info)
        .def("schedule", [](const RuntimeRef& self) { return self.slot->open()->schedule(); })
        .def("reserve_rows", &reserve_rows, "rows"_a, "top_k"_a, "hidden"_a)
        .def("resize", &resize, "host_memory"_a = py::none(), "device_memory"_a = py::none())
        .def("check_integrity", &check_integrity)
        .def("close", &close)
        .def_static("scratch_bytes", &scratch_bytes, "rows"_a, "top_k"_a, "hidden"_a, "intermediate"_a, "integer"_a,
                    "layers"_a = 0, "math"_a = "exact", "ahead"_a = 0)
        .def_static("record_bytes", &engine::Runtime::record_bytes, "rows"_a, "top_k"_a, "layers"_a, "ahead"_a = 0)
        .def_static("staging_bytes", &engine::Runtime::staging_bytes);
    bind_loading(runtime);
}

// What there is of CUDA, as dicts.
py::dict cuda_info() {
    device::CudaInfo info;
    {
        py::gil_scoped_release released;
        info = device::cuda_info();
    }
    py::list devices;
    for (const device::CudaDevice& one : info.devices)
        devices.append(py::dict("name"_a = one.name, "compute_capability"_a = py::make_tuple(one.major, one.minor),
                                "multiprocessors"_a = one.multiprocessors, "integrated"_a = one.integrated,
                                "bus"_a = one.bus, "total"_a = one.total, "free"_a = one.free,
                                "missing"_a = one.missing));
    return py::dict("built"_a = info.built, "driver"_a = info.driver, "runtime"_a = info.runtime, "devices"_a = devices,
                    "missing"_a = info.missing);
}

}  // namespace

void bind_runtime(py::module_& module) {
    module.def("cuda_info", &cuda_info);
    module.def("kept_units", &residency::LayerStream::keep, "unit_bytes"_a, "keep_bytes"_a);
    bind_memory(module);
    py::class_<TicketRef>(module, "Ticket", "One submit_experts; dropping it without wait() abandons the work.");
    bind_class(module);
}

}  // namespace moestro::bind
