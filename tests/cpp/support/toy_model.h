// A small random MoE model on disk, as a packed store and as a checkpoint in place, and the answers its experts give
// when all of their weights are simply in memory.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "base/memory.h"
#include "kernels/compute.h"
#include "kernels/ops.h"
#include "store/catalog.h"

namespace moestro::testing {

class TemporaryDirectory {
  public:
    TemporaryDirectory();
    ~TemporaryDirectory();
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
    std::string file(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

struct ToyShape {
    quant::Format format = quant::Format::bf16;
    int layers = 3;
    int experts = 6;
    int hidden = 48;  // not a multiple of a panel or a group
    int intermediate = 40;
    quant::SourceType source = quant::SourceType::bf16;  // of the checkpoint
    bool uneven = false;                                 // layers of two record sizes
    unsigned seed = 1;
};

// What a step sends to one layer.
struct Call {
    int layer = 0, rows = 0, top_k = 0;
    std::vector<float> x;           // [rows, hidden]
    std::vector<std::int32_t> ids;  // [rows, top_k], distinct in a row
    std::vector<float> weights;     // [rows, top_k]
};

class ToyModel {
  public:
    explicit ToyModel(const ToyShape& shape);

    const ToyShape& shape() const { return shape_; }
    const std::string& packed_path() const { return packed_path_; }
    const std::string& checkpoint_path() const { return checkpoint_path_; }
    // Layers are numbered 1, 3, 5, ...: a model may have dense ones between.
    int layer_number(int position) const { return 2 * position + 1; }
    std::size_t record_bytes(int position = 0) const {
        return packed_[static_cast<std::size_t>(position)].record_bytes;
    }

    std::vector<store::ExpertLayer> packed(int file = 0) const { return with_file(packed_, file); }
    std::vector<store::ExpertLayer> in_place(int file = 0) const { return with_file(in_place_, file); }
    store::Files open(bool packed, io::File::Cache cache = io::File::Cache::direct) const {
        return {io::File::open(packed ? packed_path_ : checkpoint_path_, cache)};
    }

    Call random_call(int position, int rows, int top_k, unsigned seed) const;
    // The exact result, by kernels over resident weights.
    std::vector<float> expected(kernels::Compute& compute, const Call& call) const;
    const std::byte* record(int position, int expert) const;

  private:
    static std::vector<store::ExpertLayer> with_file(std::vector<store::ExpertLayer> layers, int file);
    void write();

    const ToyShape shape_;
    const TemporaryDirectory directory_;
    std::string packed_path_, checkpoint_path_;
    std::vector<store::ExpertLayer> packed_, in_place_;
    PageBuffer records_;  // the packed file's bytes
};

}  // namespace moestro::testing
