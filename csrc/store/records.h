// Records by number: where the bytes of each lie, and what messages call it. A source reads them, a cache or a stream
// gives them room.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "io/reader.h"
#include "quant/format.h"

namespace moestro::store {

using Files = std::vector<std::shared_ptr<const io::File>>;

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

// A matrix of a checkpoint, and the part of a record that it becomes.
struct PlacedSlice {
    TensorSlice from;
    Part into;
};

// Immutable, any thread. All of its records are packed, or all are put together from matrices of a checkpoint in place.
class Records {
  public:
    virtual ~Records() = default;
    virtual const Files& files() const = 0;
    virtual bool packed() const = 0;
    virtual int count() const = 0;
    virtual std::string name(int number) const = 0;                   // "layer 3, expert 7"
    virtual const RecordExtent& extent(int number) const = 0;         // REQUIRES packed()
    virtual int slices(int number) const = 0;                         // how many; REQUIRES !packed()
    virtual PlacedSlice slice(int number, int index) const = 0;       // the same
    virtual std::string slice_name(int number, int index) const = 0;  // "gate"
};

// Whether the part is aligned and lies inside a record of so many bytes.
bool fits_record(const Part& part, std::size_t record_bytes);
// Throws Error(checkpoint) naming `what` when the bytes do not lie inside the file.
void require_inside(const io::File& file, std::uint64_t offset, std::uint64_t bytes, const std::string& what);
// Throws Error(usage) when there is no file of that index.
const std::shared_ptr<const io::File>& file_at(const Files& files, int file);

}  // namespace moestro::store
