// The part of Runtime that runs before the first step.
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>

#include "base/types.h"
#include "bind/matrix_spec.h"
#include "bind/runtime_ref.h"

namespace moestro::bind {
namespace {

using namespace py::literals;

using PartTuple = std::tuple<std::int64_t, std::int64_t, std::string, std::string, std::size_t>;
// rows, cols, dtype, and where they lie in columns: stride and step in elements (0, 1: they do not)
using SourceTuple = std::tuple<std::int64_t, std::int64_t, std::string, std::int64_t, std::int32_t>;
using ColumnsTuple = std::tuple<std::int64_t, std::int32_t>;               // stride, step
using StackTuple = std::tuple<std::int32_t, std::int32_t, std::uint64_t>;  // matrices, rows of each, bytes between them

engine::Part part(const PartTuple& tuple) {
    const auto& [rows, cols, format, scale, offset] = tuple;
    return {matrix_spec(format, scale, rows, cols), offset};
}

kernels::KvType kv_type(const std::string& name) {
    if (name == "f32") return kernels::KvType::f32;
    if (name == "bf16") return kernels::KvType::bf16;
    if (name == "f16") return kernels::KvType::f16;
    fail(ErrorKind::usage, "argument type: expected one of f32, bf16, f16; got ", name);
}

std::span<const float> values(const std::optional<View<const float>>& view) {
    if (!view) return {};
    return {view->data, static_cast<std::size_t>(view->size())};
}

std::optional<View<const float>> bias_view(const std::optional<py::object>& bias, std::int64_t rows) {
    if (!bias) return std::nullopt;
    return input<float>(*bias, "bias", Shape::exactly({rows}));
}

engine::TensorSlice slice_of(int file, std::uint64_t offset, const std::string& dtype, std::int64_t rows,
                             std::int64_t cols, const std::optional<ColumnsTuple>& columns,
                             const std::optional<StackTuple>& stack) {
    engine::TensorSlice slice{file, offset, quant::parse_source_type(dtype), size32(rows, "rows"),
                              size32(cols, "cols")};
    if (columns) std::tie(slice.column_stride, slice.column_step) = *columns;
    if (stack) std::tie(slice.stack, slice.stack_rows, slice.stack_bytes) = *stack;
    return slice;
}

int open_file(const RuntimeRef& self, const std::string& path) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    return runtime->open_file(path);
}

MatrixRef load_matrix(const RuntimeRef& self, const std::string& name, int file, std::uint64_t offset,
                      const std::string& dtype, std::int64_t rows, std::int64_t cols, const std::string& format,
                      const std::optional<py::object>& bias, const std::optional<ColumnsTuple>& columns,
                      const std::optional<StackTuple>& stack) {
    const auto runtime = self.slot->open();
    const engine::TensorSlice slice = slice_of(file, offset, dtype, rows, cols, columns, stack);
    const quant::Format parsed = quant::parse_format(format);
    const auto view = bias_view(bias, rows);
    py::gil_scoped_release released;
    return {runtime->load_matrix(name, slice, parsed, values(view))};
}

std::vector<MatrixRef> references(std::vector<engine::MatrixHandle> handles) {
    std::vector<MatrixRef> matrices;
    for (engine::MatrixHandle& handle : handles) matrices.push_back({std::move(handle)});
    return matrices;
}

// What a record is made of, as the runtime takes it.
struct RecordParts {
    RecordParts(const std::vector<PartTuple>& parts, const std::vector<std::optional<py::object>>& given) {
        require(given.empty() || given.size() == parts.size(), ErrorKind::usage, "argument biases: expected ",
                parts.size(), " entries, as many as parts; got ", given.size());
        for (const PartTuple& tuple : parts) specs.push_back(part(tuple));
        for (std::size_t i = 0; i < given.size(); ++i) views_.push_back(bias_view(given[i], specs[i].spec.rows));
        for (const auto& view : views_) biases.push_back(values(view));
    }

    std::vector<engine::Part> specs;
    std::vector<std::span<const float>> biases;

  private:
    std::vector<std::optional<View<const float>>> views_;
};

std::vector<MatrixRef> load_record(const RuntimeRef& self, const std::string& name, int file, std::uint64_t offset,
                                   std::size_t nbytes, std::uint64_t checksum, const std::vector<PartTuple>& parts,
                                   const std::vector<std::optional<py::object>>& biases) {
    const auto runtime = self.slot->open();
    const RecordParts given(parts, biases);
    py::gil_scoped_release released;
    return references(runtime->load_record(name, {file, offset, nbytes, checksum}, given.specs, given.biases));
}

std::vector<MatrixRef> stream_record(const RuntimeRef& self, const std::string& name, int file, std::uint64_t offset,
                                     std::size_t nbytes, std::uint64_t checksum, const std::vector<PartTuple>& parts,
                                     const std::vector<std::optional<py::object>>& biases) {
    const auto runtime = self.slot->open();
    const RecordParts given(parts, biases);
    py::gil_scoped_release released;
    return references(runtime->stream_record(name, {file, offset, nbytes, checksum}, given.specs, given.biases));
}

// file, offset, dtype, rows, cols, format, bias, columns, stack
using StreamedTuple = std::tuple<int, std::uint64_t, std::string, std::int64_t, std::int64_t, std::string,
                                 std::optional<py::object>, std::optional<ColumnsTuple>, std::optional<StackTuple>>;

std::vector<MatrixRef> stream_matrices(const RuntimeRef& self, const std::string& name,
                                       const std::vector<StreamedTuple>& tuples) {
    const auto runtime = self.slot->open();
    std::vector<std::optional<View<const float>>> views;
    std::vector<engine::Runtime::StreamedMatrix> matrices;
    for (const auto& [file, offset, dtype, rows, cols, format, bias, columns, stack] : tuples) {
        views.push_back(bias_view(bias, rows));
        matrices.push_back({slice_of(file, offset, dtype, rows, cols, columns, stack), quant::parse_format(format),
                            values(views.back())});
    }
    py::gil_scoped_release released;
    return references(runtime->stream_matrices(name, matrices));
}

void set_stream(const RuntimeRef& self, int window, int batch, std::size_t keep_bytes) {
    const auto runtime = self.slot->open();
    py::gil_scoped_release released;
    runtime->set_stream({window, batch, keep_bytes});
}

// What of a layer's experts is the same wherever their records lie. biases: of gate, up and down, [experts, rows].
void set_math(engine::ExpertLayer& layer, const std::string& activation,
              const std::optional<std::array<py::object, 3>>& biases) {
    layer.kind = gate_kind(activation);
    if (!biases) return;
    for (std::size_t i = 0; i < 3; ++i) {
        const auto view =
            input<float>((*biases)[i], "biases", Shape::exactly({layer.experts(), layer.parts()[i]->spec.rows}));
        layer.biases[i].assign(view.data, view.data + view.size());
    }
}

void add_packed(RuntimeRef& self, int number, const std::vector<PartTuple>& parts, std::size_t record_bytes,
                const py::object& files, const py::object& offsets, const py::object& checksums,
                const std::string& activation, const std::optional<std::array<py::object, 3>>& biases) {
    self.slot->open();
    require(parts.size() == 3, ErrorKind::usage, "argument parts: expected gate, up and down; got ", parts.size());
    const auto file = input<std::int32_t>(files, "files", Shape::exactly({kAny}));
    const auto offset = input<std::uint64_t>(offsets, "offsets", Shape::exactly(file.shape));
    const auto checksum = input<std::uint64_t>(checksums, "checksums", Shape::exactly(file.shape));
    engine::ExpertLayer layer{.layer = number,
                              .gate = part(parts[0]),
                              .up = part(parts[1]),
                              .down = part(parts[2]),
                              .record_bytes = record_bytes,
                              .records = {},
                              .slices = {},
                              .biases = {}};
    for (std::int64_t i = 0; i < file.size(); ++i)
        layer.records.push_back({file.data[i], offset.data[i], record_bytes, checksum.data[i]});
    set_math(layer, activation, biases);
    self.layers.push_back(std::move(layer));
}

// A record in memory is laid out as in a packed store: gate | up | down.
void add_inplace(RuntimeRef& self, int number, const std::string& format, const std::vector<SourceTuple>& sources,
                 const py::object& files, const py::object& offsets, const std::string& activation,
                 const std::optional<std::array<py::object, 3>>& biases) {
    self.slot->open();
    require(sources.size() == 3, ErrorKind::usage, "argument gate_up_down: expected gate, up and down; got ",
            sources.size());
    const auto file = input<std::int32_t>(files, "files", Shape::exactly({kAny, 3}));
    const auto offset = input<std::uint64_t>(offsets, "offsets", Shape::exactly(file.shape));
    std::array<engine::TensorSlice, 3> slices;
    std::array<engine::Part, 3> parts;
    std::size_t end = 0;
    for (std::size_t i = 0; i < 3; ++i) {
        const auto& [rows, cols, dtype, stride, step] = sources[i];
        slices[i] = slice_of(0, 0, dtype, rows, cols, ColumnsTuple{stride, step}, std::nullopt);
        parts[i] = {matrix_spec(format, "none", rows, cols), end};
        end = round_up(end + parts[i].spec.bytes(), quant::kPartAlign);
    }
    engine::ExpertLayer layer{.layer = number,
                              .gate = parts[0],
                              .up = parts[1],
                              .down = parts[2],
                              .record_bytes = round_up(end, kPageBytes),
                              .records = {},
                              .slices = {},
                              .biases = {}};
    for (std::int64_t expert = 0; expert < file.shape[0]; ++expert) {
        for (std::size_t i = 0; i < 3; ++i) {
            slices[i].file = file.data[expert * 3 + static_cast<std::int64_t>(i)];
            slices[i].offset = offset.data[expert * 3 + static_cast<std::int64_t>(i)];
        }
        layer.slices.push_back(slices);
    }
    set_math(layer, activation, biases);
    self.layers.push_back(std::move(layer));
}

void set_experts(RuntimeRef& self) {
    const auto runtime = self.slot->open();
    std::vector<engine::ExpertLayer> layers = std::move(self.layers);
    self.layers.clear();
    py::gil_scoped_release released;
    runtime->set_experts(std::move(layers));
}

KvRef set_kv(const RuntimeRef& self, const std::string& type, int kv_heads, int head_dim, int layers, int latent) {
    const auto runtime = self.slot->open();
    require(latent >= 0 && latent <= head_dim, ErrorKind::usage, "argument latent: expected 0 to head_dim = ", head_dim,
            "; got ", latent);
    const kernels::KvLayout layout{kv_type(type), kv_heads, head_dim, latent ? latent : head_dim, latent > 0};
    return {self.slot, &runtime->set_kv(layout, layers)};
}

}  // namespace

void bind_loading(RuntimeClass& runtime) {
    runtime.def("open_file", &open_file, "path"_a)
        .def("load_matrix", &load_matrix, "name"_a, "file"_a, "offset"_a, "dtype"_a, "rows"_a, "cols"_a, "format"_a,
             "bias"_a = py::none(), "columns"_a = py::none(), "stack"_a = py::none())
        .def("load_record", &load_record, "name"_a, "file"_a, "offset"_a, "nbytes"_a, "checksum"_a, "parts"_a,
             "biases"_a)
        .def("stream_record", &stream_record, "name"_a, "file"_a, "offset"_a, "nbytes"_a, "checksum"_a, "parts"_a,
             "biases"_a)
        .def("stream_matrices", &stream_matrices, "name"_a, "matrices"_a)
        .def("set_stream", &set_stream, py::kw_only(), "window"_a, "batch"_a, "keep_bytes"_a)
        .def("add_expert_layer_packed", &add_packed, "layer"_a, "parts"_a, "record_bytes"_a, "files"_a, "offsets"_a,
             "checksums"_a, "activation"_a = "silu", "biases"_a = py::none())
        .def("add_expert_layer_inplace", &add_inplace, "layer"_a, "format"_a, "gate_up_down"_a, "files"_a, "offsets"_a,
             "activation"_a = "silu", "biases"_a = py::none())
        .def("set_experts", &set_experts)
        .def("set_kv", &set_kv, "type"_a, "kv_heads"_a, "head_dim"_a, "layers"_a, "latent"_a = 0);
}

}  // namespace moestro::bind
