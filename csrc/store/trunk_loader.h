// Loads the weights that stay: trunk matrices from a checkpoint or a packed store, into memory of their own.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/thread_pool.h"
#include "io/reader.h"
#include "kernels/ops.h"
#include "memory/ledger.h"
#include "memory/staging.h"
#include "store/record_source.h"
#include "store/trunk_units.h"

namespace moestro::store {

struct RowJob;  // store/row_reader.h

// One thread at a time. The reader must be nobody else's during a call. Errors name the matrix or record, the file and
// the cause; a failed load leaves nothing behind.
class TrunkLoader {
  public:
    // All but the ledger are borrowed and must outlive the loader.
    TrunkLoader(std::shared_ptr<memory::Ledger> ledger, io::Reader& reader, memory::Staging& staging, ThreadPool& pool,
                Verify verify, const Clock& clock);

    // Reads, converts and keeps a matrix. bias: [rows] or empty, copied. Integer formats read it twice: the scale type
    // is a property of the whole matrix.
    MatrixHandle load_matrix(const std::string& name, const std::shared_ptr<const io::File>& file,
                             const TensorSlice& slice, quant::Format format, std::span<const float> bias);

    // Reads a packed record whole and verifies its checksum (unless Verify::never); `parts` become matrices that share
    // its memory. biases: empty, or one per part, each [rows] or empty.
    std::vector<MatrixHandle> load_record(const std::string& name, const std::shared_ptr<const io::File>& file,
                                          const RecordExtent& extent, std::span<const Part> parts,
                                          std::span<const std::span<const float>> biases);

    SourceCounters counters() const { return counters_; }

  private:
    struct Memory;
    std::shared_ptr<Memory> make_memory(std::size_t bytes, std::span<const std::span<const float>> biases) const;
    void read_rows(const std::string& name, RowJob job);
    void read_whole(const std::string& name, const std::shared_ptr<const io::File>& file, const RecordExtent& extent,
                    std::span<std::byte> into);
    quant::ScaleType scale_type(const std::string& name, const std::shared_ptr<const io::File>& file,
                                const TensorSlice& slice, quant::Format format);

    const std::shared_ptr<memory::Ledger> ledger_;
    io::Reader& reader_;
    memory::Staging& staging_;
    ThreadPool& pool_;
    const Verify verify_;
    const Clock& clock_;
    SourceCounters counters_;
};

}  // namespace moestro::store
