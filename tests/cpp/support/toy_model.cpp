#include "support/toy_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <random>

#include "base/checksum.h"
#include "quant/pack.h"

namespace moestro::testing {

namespace {

// Random weights as a checkpoint stores them.
std::vector<std::byte> source_bytes(std::size_t count, quant::SourceType type, std::mt19937& random) {
    std::normal_distribution<float> normal(0.0f, 0.3f);
    std::vector<std::byte> bytes(count * quant::bytes(type));
    for (std::size_t i = 0; i < count; ++i) {
        const float value = normal(random);
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        if (type == quant::SourceType::bf16) {
            const auto top = static_cast<std::uint16_t>(bits >> 16);
            std::memcpy(bytes.data() + 2 * i, &top, 2);
        } else {
            std::memcpy(bytes.data() + 4 * i, &bits, 4);
        }
    }
    return bytes;
}

void write_file(const std::string& path, std::span<const std::byte> bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    out.close();
    if (!out) std::abort();
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() : path_(::testing::TempDir() + "moestro-XXXXXX") {
    if (!::mkdtemp(path_.data())) std::abort();
}

TemporaryDirectory::~TemporaryDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
}

ToyModel::ToyModel(const ToyShape& shape)
    : shape_(shape), packed_path_(directory_.file("experts.bin")), checkpoint_path_(directory_.file("checkpoint.bin")) {
    write();
}

void ToyModel::write() {
    std::mt19937 random(shape_.seed);
    std::vector<std::byte> checkpoint(37);  // nothing in a checkpoint is aligned
    std::vector<std::byte> packed;
    const quant::ScaleType scale = quant::is_integer(shape_.format) ? quant::ScaleType::f16 : quant::ScaleType::none;
    for (int position = 0; position < shape_.layers; ++position) {
        const int intermediate = shape_.uneven && position % 2 == 1 ? 3 * shape_.intermediate : shape_.intermediate;
        store::ExpertLayer layer;
        layer.layer = layer_number(position);
        layer.gate.spec = layer.up.spec = {intermediate, shape_.hidden, shape_.format, scale};
        layer.down.spec = {shape_.hidden, intermediate, shape_.format, scale};
        layer.up.offset = layer.gate.spec.bytes();
        layer.down.offset = layer.up.offset + layer.up.spec.bytes();
        layer.record_bytes = round_up(layer.down.offset + layer.down.spec.bytes(), kPageBytes);
        store::ExpertLayer in_place = layer;
        for (int expert = 0; expert < shape_.experts; ++expert) {
            std::array<store::TensorSlice, 3> slices;
            const std::size_t record = packed.size();
            packed.resize(record + layer.record_bytes);
            for (std::size_t part = 0; part < 3; ++part) {
                const store::Part& into = *layer.parts()[part];
                const auto count = static_cast<std::size_t>(into.spec.rows) * static_cast<std::size_t>(into.spec.cols);
                const std::vector<std::byte> bytes = source_bytes(count, shape_.source, random);
                slices[part] = {0, checkpoint.size(), shape_.source, into.spec.rows, into.spec.cols};
                checkpoint.insert(checkpoint.end(), bytes.begin(), bytes.end());
                quant::pack({bytes.data(), shape_.source, into.spec.rows, into.spec.cols}, into.spec,
                            packed.data() + record + into.offset, 0, into.spec.panels());
            }
            in_place.slices.push_back(slices);
            layer.records.push_back(
                {0, record, layer.record_bytes, xxh64(std::span(packed).subspan(record, layer.record_bytes))});
        }
        packed_.push_back(std::move(layer));
        in_place_.push_back(std::move(in_place));
    }
    write_file(checkpoint_path_, checkpoint);
    write_file(packed_path_, packed);
    records_ = PageBuffer(packed.size());
    std::memcpy(records_.data(), packed.data(), packed.size());
}

std::vector<store::ExpertLayer> ToyModel::with_file(std::vector<store::ExpertLayer> layers, int file) {
    for (store::ExpertLayer& layer : layers) {
        for (store::RecordExtent& record : layer.records) record.file = file;
        for (auto& slices : layer.slices)
            for (store::TensorSlice& slice : slices) slice.file = file;
    }
    return layers;
}

Call ToyModel::random_call(int position, int rows, int top_k, unsigned seed) const {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    Call call{layer_number(position), rows, top_k, {}, {}, {}};
    std::vector<std::int32_t> all(static_cast<std::size_t>(shape_.experts));
    std::iota(all.begin(), all.end(), 0);
    for (int row = 0; row < rows; ++row) {
        std::shuffle(all.begin(), all.end(), random);
        call.ids.insert(call.ids.end(), all.begin(), all.begin() + top_k);
        for (int j = 0; j < top_k; ++j) call.weights.push_back(std::abs(normal(random)));
    }
    call.x.resize(static_cast<std::size_t>(rows) * static_cast<std::size_t>(shape_.hidden));
    for (float& value : call.x) value = normal(random);
    return call;
}

const std::byte* ToyModel::record(int position, int expert) const {
    return records_.data() +
           packed_[static_cast<std::size_t>(position)].records[static_cast<std::size_t>(expert)].offset;
}

std::vector<float> ToyModel::expected(kernels::Compute& compute, const Call& call) const {
    const int position = (call.layer - 1) / 2;
    const store::ExpertLayer& layer = packed_[static_cast<std::size_t>(position)];
    const auto matrix = [](const store::Part& part, const std::byte* record) {
        return kernels::Matrix{record + part.offset, part.spec, nullptr};
    };
    kernels::Activations x;
    kernels::MlpScratch scratch;
    x.prepare(compute, call.x.data(), call.rows, shape_.hidden, quant::is_integer(shape_.format));
    // Every (row, expert) pair by itself, as plainly as it gets.
    const auto hidden = static_cast<std::size_t>(shape_.hidden);
    std::vector<float> outputs(call.ids.size() * hidden);
    std::vector<const float*> pointers;
    for (std::size_t pair = 0; pair < call.ids.size(); ++pair) {
        const std::int32_t row = static_cast<std::int32_t>(pair) / call.top_k;
        const std::byte* data = record(position, call.ids[pair]);
        const kernels::ExpertJob job{{matrix(layer.gate, data), matrix(layer.up, data), matrix(layer.down, data)},
                                     {&row, 1},
                                     outputs.data() + pair * hidden};
        kernels::experts(compute, x, {&job, 1}, scratch);
        pointers.push_back(job.y);
    }
    std::vector<float> y(static_cast<std::size_t>(call.rows) * hidden);
    kernels::combine(compute, pointers, call.weights.data(), call.rows, call.top_k, shape_.hidden, y.data());
    return y;
}

}  // namespace moestro::testing
