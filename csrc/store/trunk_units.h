// The parts of a trunk that need not stay in memory: one record each, and the matrices that point into it wherever it
// is at the time. Units are numbered in the order in which a pass over the model uses them.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "memory/ledger.h"
#include "store/records.h"

namespace moestro::store {

// Keeps its memory, its bias and their ledger entry ("trunk") alive.
using MatrixHandle = std::shared_ptr<const kernels::Matrix>;

// What was given for a trunk's weights, or Error(usage) beginning with `name`: a bias has a value per row or none, a
// record holds its parts and has a bias per part or none.
void check_bias(const std::string& name, std::span<const float> bias, std::int32_t rows);
void check_trunk_record(const std::string& name, const RecordExtent& extent, std::span<const Part> parts,
                        std::span<const std::span<const float>> biases);

// Built by one thread before anybody reads; then records are immutable, and place() is the step loop's.
class TrunkUnits final : public Records {
  public:
    explicit TrunkUnits(std::shared_ptr<memory::Ledger> ledger) : ledger_(std::move(ledger)) {}

    // A packed record. biases: empty, or one per part, each [rows] or empty; copied. Throws Error(usage) for parts that
    // do not fit, Error(checkpoint) for an extent outside its file.
    std::vector<MatrixHandle> add(const std::string& name, const std::shared_ptr<const io::File>& file,
                                  const RecordExtent& extent, std::span<const Part> parts,
                                  std::span<const std::span<const float>> biases);
    // A record put together from matrices of a checkpoint, one after the other; formats are f32 or bf16.
    struct Piece {
        std::shared_ptr<const io::File> file;
        TensorSlice slice;
        quant::Format format = quant::Format::bf16;
        std::span<const float> bias = {};
    };
    std::vector<MatrixHandle> add(const std::string& name, std::span<const Piece> pieces);

    std::size_t bytes(int unit) const { return units_[static_cast<std::size_t>(unit)].extent.bytes; }
    std::size_t largest() const;
    // Where the unit's record is from now on; nullptr: nowhere.
    void place(int unit, const std::byte* record);

    const Files& files() const override { return files_; }
    bool packed() const override { return units_.empty() || units_.front().slices.empty(); }
    int count() const override { return static_cast<int>(units_.size()); }
    std::string name(int number) const override { return at(number).name; }
    const RecordExtent& extent(int number) const override { return at(number).extent; }
    int slices(int number) const override { return static_cast<int>(at(number).slices.size()); }
    PlacedSlice slice(int number, int index) const override {
        return at(number).slices[static_cast<std::size_t>(index)];
    }
    std::string slice_name(int, int index) const override;

    // What a record of such matrices takes in memory.
    static std::size_t record_bytes(std::span<const quant::MatrixSpec> specs);

  private:
    struct Weights {  // shared with whoever holds a matrix
        memory::Reservation reservation;
        std::vector<std::vector<float>> biases;
        std::vector<kernels::Matrix> matrices;
    };
    struct Unit {
        std::string name;
        RecordExtent extent;  // of a record in place only `bytes` means something
        std::vector<PlacedSlice> slices;
        std::vector<std::size_t> offsets;  // of the matrices
        std::shared_ptr<Weights> weights;
    };

    const Unit& at(int number) const { return units_[static_cast<std::size_t>(number)]; }
    int number_of(const std::shared_ptr<const io::File>& file);
    std::vector<MatrixHandle> add(Unit unit, std::span<const Part> parts,
                                  std::span<const std::span<const float>> biases);

    const std::shared_ptr<memory::Ledger> ledger_;
    Files files_;
    std::vector<Unit> units_;
};

}  // namespace moestro::store
