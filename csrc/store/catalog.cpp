#include "store/catalog.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace moestro::store {

namespace {

constexpr std::array<std::string_view, 3> kPartNames{"gate", "up", "down"};

void check_parts(const ExpertLayer& layer) {
    const auto parts = layer.parts();
    const quant::MatrixSpec& gate = layer.gate.spec;
    require(gate.rows > 0 && gate.cols > 0 && layer.up.spec.rows == gate.rows && layer.up.spec.cols == gate.cols &&
                layer.down.spec.rows == gate.cols && layer.down.spec.cols == gate.rows,
            ErrorKind::usage, "layer ", layer.layer,
            ": gate and up must be [intermediate, hidden] and down [hidden, intermediate]; got gate [", gate.rows, ", ",
            gate.cols, "], up [", layer.up.spec.rows, ", ", layer.up.spec.cols, "], down [", layer.down.spec.rows, ", ",
            layer.down.spec.cols, "]");
    require(layer.record_bytes > 0 && layer.record_bytes % kPageBytes == 0, ErrorKind::usage, "layer ", layer.layer,
            ": a record is a multiple of 4096 bytes; got ", layer.record_bytes);
    std::size_t end = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const Part& part = *parts[i];
        const std::size_t values = static_cast<std::size_t>(layer.experts()) * static_cast<std::size_t>(part.spec.rows);
        require(layer.biases[i].empty() || layer.biases[i].size() == values, ErrorKind::usage, "layer ", layer.layer,
                ": biases of ", kPartNames[i], ": expected ", values, " values; got ", layer.biases[i].size());
        require(part.offset >= end && fits_record(part, layer.record_bytes), ErrorKind::usage, "layer ", layer.layer,
                ": ", kPartNames[i], " of ", part.spec.bytes(), " bytes at offset ", part.offset,
                " does not fit a record of ", layer.record_bytes,
                " bytes behind the part before it (offsets are multiples of 64)");
        end = part.offset + part.spec.bytes();
    }
}

void check_record(const ExpertLayer& layer, int expert, const Files& files) {
    const RecordExtent& record = layer.records[static_cast<std::size_t>(expert)];
    const std::string what = text("layer ", layer.layer, ", expert ", expert);
    require(record.bytes == layer.record_bytes && record.offset % kPageBytes == 0, ErrorKind::usage, what,
            ": a record of ", layer.record_bytes, " bytes at a multiple of 4096 was expected; got ", record.bytes,
            " bytes at ", record.offset);
    require_inside(*file_at(files, record.file), record.offset, record.bytes, what);
}

void check_slices(const ExpertLayer& layer, int expert, const Files& files) {
    const auto parts = layer.parts();
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const TensorSlice& slice = layer.slices[static_cast<std::size_t>(expert)][i];
        const quant::MatrixSpec& spec = parts[i]->spec;
        const std::string what = text("layer ", layer.layer, ", expert ", expert, ", ", kPartNames[i]);
        require(slice.rows == spec.rows && slice.cols == spec.cols, ErrorKind::usage, what, ": [", spec.rows, ", ",
                spec.cols, "] was expected; got [", slice.rows, ", ", slice.cols, "]");
        require(!quant::is_integer(spec.format), ErrorKind::usage, what,
                ": a checkpoint in place runs as f32 or bf16, not as ", quant::name(spec.format), ": pack it first");
        require_slice(what, slice);
        require_inside(*file_at(files, slice.file), slice.offset, slice.span(), what);
    }
}

void check_layer(const ExpertLayer& layer, const Files& files) {
    require(layer.layer >= 0, ErrorKind::usage, "layer numbers start at 0; got ", layer.layer);
    require(layer.records.empty() != layer.slices.empty(), ErrorKind::usage, "layer ", layer.layer,
            ": either packed records or slices of a checkpoint were expected");
    check_parts(layer);
    for (int expert = 0; expert < layer.experts(); ++expert)
        layer.packed() ? check_record(layer, expert, files) : check_slices(layer, expert, files);
}

// Puts the layers in order.
std::vector<ExpertTable::Layer> checked_sizes(std::vector<ExpertLayer>& layers, const Files& files) {
    std::sort(layers.begin(), layers.end(),
              [](const ExpertLayer& a, const ExpertLayer& b) { return a.layer < b.layer; });
    std::vector<ExpertTable::Layer> sizes;
    for (const ExpertLayer& layer : layers) {
        check_layer(layer, files);
        require(layer.packed() == layers.front().packed(), ErrorKind::usage, "layer ", layer.layer,
                ": all layers are packed records, or all are slices of a checkpoint");
        sizes.push_back({layer.layer, layer.experts(), layer.record_bytes});
    }
    return sizes;
}

}  // namespace

Catalog::Catalog(std::vector<ExpertLayer> layers, Files files)
    : ExpertTable(checked_sizes(layers, files)), layers_(std::move(layers)), files_(std::move(files)) {}

std::string Catalog::name(int number) const {
    const ExpertId one = id(number);
    return text("layer ", one.layer, ", expert ", one.expert);
}

const RecordExtent& Catalog::extent(int number) const {
    const ExpertId one = id(number);
    return layer(one.layer).records[static_cast<std::size_t>(one.expert)];
}

PlacedSlice Catalog::slice(int number, int index) const {
    const ExpertId one = id(number);
    const ExpertLayer& of = layer(one.layer);
    const auto part = static_cast<std::size_t>(index);
    return {of.slices[static_cast<std::size_t>(one.expert)][part], *of.parts()[part]};
}

std::string Catalog::slice_name(int, int index) const {
    return std::string(kPartNames[static_cast<std::size_t>(index)]);
}

}  // namespace moestro::store
