#include "store/trunk_units.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/types.h"

namespace moestro::store {

void check_bias(const std::string& name, std::span<const float> bias, std::int32_t rows) {
    require(bias.empty() || bias.size() == static_cast<std::size_t>(rows), ErrorKind::usage, name, ": a bias of ", rows,
            " values was expected, got ", bias.size());
}

void check_trunk_record(const std::string& name, const RecordExtent& extent, std::span<const Part> parts,
                        std::span<const std::span<const float>> biases) {
    require(extent.bytes > 0 && extent.bytes % kPageBytes == 0 && extent.offset % kPageBytes == 0, ErrorKind::usage,
            name, ": a record lies at a multiple of 4096 and is as many bytes long; got ", extent.bytes, " bytes at ",
            extent.offset);
    require(biases.empty() || biases.size() == parts.size(), ErrorKind::usage, name, ": ", parts.size(),
            " biases were expected, got ", biases.size());
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const Part& part = parts[i];
        require(fits_record(part, extent.bytes), ErrorKind::usage, name, ": part ", i, " of ", part.spec.bytes(),
                " bytes at offset ", part.offset, " does not fit a record of ", extent.bytes,
                " bytes (offsets are multiples of 64)");
        if (!biases.empty()) check_bias(name, biases[i], part.spec.rows);
    }
}

std::size_t TrunkUnits::record_bytes(std::span<const quant::MatrixSpec> specs) {
    std::size_t end = 0;
    for (const quant::MatrixSpec& spec : specs) end = round_up(end + spec.bytes(), quant::kPartAlign);
    return round_up(end, kPageBytes);
}

std::vector<MatrixHandle> TrunkUnits::add(const std::string& name, const std::shared_ptr<const io::File>& file,
                                          const RecordExtent& extent, std::span<const Part> parts,
                                          std::span<const std::span<const float>> biases) {
    require(units_.empty() || packed(), ErrorKind::usage, name,
            ": all units are packed records, or all are put together from a checkpoint");
    check_trunk_record(name, extent, parts, biases);
    require_inside(*file, extent.offset, extent.bytes, name);
    Unit unit{.name = name, .extent = extent, .slices = {}, .offsets = {}, .weights = {}};
    unit.extent.file = number_of(file);
    return add(std::move(unit), parts, biases);
}

std::vector<MatrixHandle> TrunkUnits::add(const std::string& name, std::span<const Piece> pieces) {
    require(!pieces.empty(), ErrorKind::usage, name, ": a unit has at least one matrix");
    require(units_.empty() || !packed(), ErrorKind::usage, name,
            ": all units are packed records, or all are put together from a checkpoint");
    Unit unit{.name = name, .extent = {}, .slices = {}, .offsets = {}, .weights = {}};
    std::vector<Part> parts;
    std::vector<std::span<const float>> biases;
    std::size_t end = 0;
    for (const Piece& piece : pieces) {
        const auto& [file, slice, format, bias] = piece;
        require_slice(name, slice);
        require(!quant::is_integer(format), ErrorKind::usage, name,
                ": a checkpoint in place runs as f32 or bf16, not as ", quant::name(format), ": pack it first");
        check_bias(name, bias, slice.rows);
        require_inside(*file, slice.offset, slice.span(), name);
        parts.push_back({{slice.rows, slice.cols, format, quant::ScaleType::none}, end});
        biases.push_back(bias);
        unit.slices.push_back({slice, parts.back()});
        unit.slices.back().from.file = number_of(file);
        end = round_up(end + parts.back().spec.bytes(), quant::kPartAlign);
    }
    unit.extent.bytes = round_up(end, kPageBytes);
    return add(std::move(unit), parts, biases);
}

std::vector<MatrixHandle> TrunkUnits::add(Unit unit, std::span<const Part> parts,
                                          std::span<const std::span<const float>> biases) {
    auto weights = std::make_shared<Weights>();
    std::size_t bias_bytes = 0;
    for (const auto& bias : biases) bias_bytes += bias.size_bytes();
    weights->reservation = memory::Reservation(ledger_, "trunk", bias_bytes);
    weights->biases.resize(parts.size());
    for (std::size_t i = 0; i < biases.size(); ++i) weights->biases[i].assign(biases[i].begin(), biases[i].end());
    for (std::size_t i = 0; i < parts.size(); ++i) {
        const std::vector<float>& bias = weights->biases[i];
        weights->matrices.push_back(
            {.data = nullptr, .spec = parts[i].spec, .bias = bias.empty() ? nullptr : bias.data()});
        unit.offsets.push_back(parts[i].offset);
    }
    unit.weights = weights;
    units_.push_back(std::move(unit));
    std::vector<MatrixHandle> handles;
    for (const kernels::Matrix& matrix : weights->matrices) handles.emplace_back(weights, &matrix);
    return handles;
}

int TrunkUnits::number_of(const std::shared_ptr<const io::File>& file) {
    const auto known = std::find(files_.begin(), files_.end(), file);
    const auto number = static_cast<int>(known - files_.begin());
    if (known == files_.end()) files_.push_back(file);
    return number;
}

std::size_t TrunkUnits::largest() const {
    std::size_t most = 0;
    for (const Unit& unit : units_) most = std::max(most, unit.extent.bytes);
    return most;
}

void TrunkUnits::place(int unit, const std::byte* record) {
    const Unit& placed = at(unit);
    for (std::size_t i = 0; i < placed.offsets.size(); ++i)
        placed.weights->matrices[i].data = record ? record + placed.offsets[i] : nullptr;
}

std::string TrunkUnits::slice_name(int, int index) const {
    return text("matrix ", index);
}

}  // namespace moestro::store
