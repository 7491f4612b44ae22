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

// Where one source matrix lies, possibly unaligned: row-major contiguous, or as columns of a wider table, or a stack of
// such matrices.
struct TensorSlice {
    int file = 0;
    std::uint64_t offset = 0;
    quant::SourceType type = quant::SourceType::bf16;
    std::int32_t rows = 0, cols = 0;

    // Above 0: element (n, k) is element k * column_stride + n * column_step from `offset` on.
    std::int64_t column_stride = 0;
    std::int32_t column_step = 1;
    // Above 1: so many matrices of stack_rows rows, stack_bytes apart, are one together; `rows` counts them all, each
    // padded with zeros to as many.
    std::int32_t stack = 1, stack_rows = 0;
    std::uint64_t stack_bytes = 0;

    // The matrix is read by lines: rows, or columns of the table.
    bool by_columns() const { return column_stride > 0; }
    std::int32_t lines() const { return by_columns() ? cols : rows; }
    std::size_t line_bytes() const {  // from one line to the next
        return static_cast<std::size_t>(by_columns() ? column_stride : cols) * quant::bytes(type);
    }
    std::size_t last_line_bytes() const {  // what is used of a line
        const std::int64_t used = by_columns() ? std::int64_t{rows - 1} * column_step + 1 : cols;
        return static_cast<std::size_t>(used) * quant::bytes(type);
    }
    // From its first byte to behind its last one, in the file.
    std::uint64_t span() const {
        if (stack > 1) return static_cast<std::uint64_t>(stack - 1) * stack_bytes + block(0).span();
        return static_cast<std::uint64_t>(lines() - 1) * line_bytes() + last_line_bytes();
    }
    // One matrix of a stack.
    TensorSlice block(std::int32_t number) const {
        TensorSlice one = *this;
        one.offset += static_cast<std::uint64_t>(number) * stack_bytes;
        if (stack > 1) one.rows = stack_rows;
        one.stack = 1;
        return one;
    }
};

// One packed record on disk.
struct RecordExtent {
    int file = 0;
    std::uint64_t offset = 0;  // multiple of 4096
    std::size_t bytes = 0;     // multiple of 4096
    std::uint64_t checksum = 0;
};

// Throws Error(usage) beginning with `what` for strides and stacks that make no sense.
void require_slice(const std::string& what, const TensorSlice& slice);

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
