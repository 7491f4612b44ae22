// What a model's experts are made of and where their bytes lie: ExpertId -> file, offset, bytes, format.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/types.h"
#include "kernels/ops.h"
#include "store/expert_table.h"
#include "store/records.h"

namespace moestro::store {

// The experts of one MoE layer; gate, up, down in this order. Exactly one of `records` and `slices` is filled.
struct ExpertLayer {
    int layer = 0;
    Part gate, up, down;
    std::size_t record_bytes = 0;                    // slot size: multiple of 4096
    std::vector<RecordExtent> records;               // [num_experts]: a packed store
    std::vector<std::array<TensorSlice, 3>> slices;  // [num_experts]: a checkpoint in place
    kernels::GateKind kind = kernels::GateKind::silu;
    // [num_experts, rows] of each part, or empty; they stay in memory.
    std::array<std::vector<float>, 3> biases;

    const float* bias(int part, int expert) const {
        const std::vector<float>& all = biases[static_cast<std::size_t>(part)];
        return all.empty() ? nullptr
                           : all.data() + std::ptrdiff_t{expert} * parts()[static_cast<std::size_t>(part)]->spec.rows;
    }

    int experts() const { return static_cast<int>(records.empty() ? slices.size() : records.size()); }
    bool packed() const { return !records.empty(); }
    std::array<const Part*, 3> parts() const { return {&gate, &up, &down}; }
};

// Immutable. Every layer was checked: shapes fit each other and the record, extents lie inside their files.
class Catalog final : public Records, public ExpertTable {
  public:
    // Throws Error(usage) for layers that contradict themselves or each other (all packed, or all in place),
    // Error(checkpoint) for extents outside their files.
    Catalog(std::vector<ExpertLayer> layers, Files files);

    // Throws Error(usage) for a layer without experts of its own.
    const ExpertLayer& layer(int layer) const { return layers_[position(layer)]; }
    const std::vector<ExpertLayer>& layers() const { return layers_; }
    const io::File& file(int file) const { return *files_[static_cast<std::size_t>(file)]; }

    // As records, by the table's numbers:
    const Files& files() const override { return files_; }
    bool packed() const override { return layers_.front().packed(); }
    int count() const override { return experts(); }
    std::string name(int number) const override;
    const RecordExtent& extent(int number) const override;
    int slices(int) const override { return 3; }
    PlacedSlice slice(int number, int index) const override;
    std::string slice_name(int number, int index) const override;

  private:
    std::vector<ExpertLayer> layers_;
    Files files_;
};

}  // namespace moestro::store
