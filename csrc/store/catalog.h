// What a model's experts are made of and where their bytes lie: ExpertId -> file, offset, bytes, format.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/types.h"
#include "io/reader.h"
#include "quant/format.h"

namespace moestro::store {

// Where one source matrix lies: row-major contiguous, possibly unaligned.
struct TensorSlice {
    int file = 0;
    std::uint64_t offset = 0;
    quant::SourceType type = quant::SourceType::bf16;
    std::int32_t rows = 0, cols = 0;

    std::size_t row_bytes() const { return static_cast<std::size_t>(cols) * quant::bytes(type); }
    std::uint64_t bytes() const { return static_cast<std::uint64_t>(rows) * row_bytes(); }
};

// One packed record on disk.
struct RecordExtent {
    int file = 0;
    std::uint64_t offset = 0;  // multiple of 4096
    std::size_t bytes = 0;     // multiple of 4096
    std::uint64_t checksum = 0;
};

// A part of a record: where its packed matrix starts.
struct Part {
    quant::MatrixSpec spec;
    std::size_t offset = 0;  // multiple of 64
};

// The experts of one MoE layer; gate, up, down in this order. Exactly one of `records` and `slices` is filled.
struct ExpertLayer {
    int layer = 0;
    Part gate, up, down;
    std::size_t record_bytes = 0;                    // slot size: multiple of 4096
    std::vector<RecordExtent> records;               // [num_experts]: a packed store
    std::vector<std::array<TensorSlice, 3>> slices;  // [num_experts]: a checkpoint in place

    int experts() const { return static_cast<int>(records.empty() ? slices.size() : records.size()); }
    bool packed() const { return !records.empty(); }
    std::array<const Part*, 3> parts() const { return {&gate, &up, &down}; }
};

using Files = std::vector<std::shared_ptr<const io::File>>;

// Whether the part is aligned and lies inside a record of so many bytes.
bool fits_record(const Part& part, std::size_t record_bytes);
// Throws Error(checkpoint) naming `what` when the bytes do not lie inside the file.
void require_inside(const io::File& file, std::uint64_t offset, std::uint64_t bytes, const std::string& what);
// Throws Error(usage) when there is no file of that index.
const std::shared_ptr<const io::File>& file_at(const Files& files, int file);

// Immutable. Every layer was checked: shapes fit each other and the record, extents lie inside their files.
class Catalog {
  public:
    // Throws Error(usage) for layers that contradict themselves or each other (all packed, or all in place),
    // Error(checkpoint) for extents outside their files.
    Catalog(std::vector<ExpertLayer> layers, Files files);

    // Throws Error(usage) for a layer without experts of its own.
    const ExpertLayer& layer(int layer) const { return layers_[position(layer)]; }
    const std::vector<ExpertLayer>& layers() const { return layers_; }
    const io::File& file(int file) const { return *files_[static_cast<std::size_t>(file)]; }
    const Files& files() const { return files_; }
    bool packed() const { return layers_.front().packed(); }

    // Experts counted through all layers: a dense number for tables.
    int experts() const { return first_.back(); }
    int number(ExpertId id) const { return first_[position(id.layer)] + id.expert; }
    std::size_t position(int layer) const;  // of a layer in layers()
    std::uint64_t record_bytes() const;     // of all experts together

  private:
    std::vector<ExpertLayer> layers_;
    Files files_;
    std::vector<int> position_;  // by layer; -1 = no experts
    std::vector<int> first_;     // by position: number of the layer's first expert; one more at the end
};

}  // namespace moestro::store
