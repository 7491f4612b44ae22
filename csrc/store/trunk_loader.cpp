#include "store/trunk_loader.h"

#include <atomic>
#include <utility>

#include "base/checksum.h"
#include "base/memory.h"
#include "base/types.h"
#include "store/read_check.h"
#include "store/row_reader.h"

namespace moestro::store {

// What matrices of one load share.
struct TrunkLoader::Memory {
    memory::Reservation reservation;
    PageBuffer pages;
    std::vector<std::vector<float>> biases;
    std::vector<kernels::Matrix> matrices;
};

namespace {

kernels::Matrix matrix_at(const std::byte* data, const quant::MatrixSpec& spec, const std::vector<float>& bias) {
    return {.data = data, .spec = spec, .bias = bias.empty() ? nullptr : bias.data()};
}

}  // namespace

TrunkLoader::TrunkLoader(std::shared_ptr<memory::Ledger> ledger, io::Reader& reader, memory::Staging& staging,
                         ThreadPool& pool, Verify verify, const Clock& clock)
    : ledger_(std::move(ledger)), reader_(reader), staging_(staging), pool_(pool), verify_(verify), clock_(clock) {}

std::shared_ptr<TrunkLoader::Memory> TrunkLoader::make_memory(std::size_t bytes,
                                                              std::span<const std::span<const float>> biases) const {
    std::size_t all = round_up(bytes, kPageBytes);
    for (const auto& bias : biases) all += bias.size_bytes();
    auto memory = std::make_shared<Memory>();
    memory->reservation = memory::Reservation(ledger_, "trunk", all);
    memory->pages = PageBuffer(bytes, true);
    for (const auto& bias : biases) memory->biases.emplace_back(bias.begin(), bias.end());
    return memory;
}

MatrixHandle TrunkLoader::load_matrix(const std::string& name, const std::shared_ptr<const io::File>& file,
                                      const TensorSlice& slice, quant::Format format, std::span<const float> bias) {
    require_slice(name, slice);
    check_bias(name, bias, slice.rows);
    require_inside(*file, slice.offset, slice.span(), name);
    require(!quant::is_integer(format) || (slice.stack == 1 && !slice.by_columns()), ErrorKind::usage, name,
            ": a matrix that lies in columns or a stack is used as f32 or bf16, not as ", quant::name(format));
    const quant::MatrixSpec spec{slice.rows, slice.cols, format, scale_type(name, file, slice, format)};
    auto memory = make_memory(spec.bytes(), {&bias, 1});
    for (RowJob& job : packing_jobs(file, slice, spec, memory->pages.data())) read_rows(name, std::move(job));
    memory->matrices.push_back(matrix_at(memory->pages.data(), spec, memory->biases.front()));
    return {memory, &memory->matrices.front()};
}

quant::ScaleType TrunkLoader::scale_type(const std::string& name, const std::shared_ptr<const io::File>& file,
                                         const TensorSlice& slice, quant::Format format) {
    if (!quant::is_integer(format)) return quant::ScaleType::none;
    std::atomic<bool> wide = false;
    read_rows(name,
              {.file = file, .slice = slice, .consume = [&](const std::byte* rows, std::int32_t count, std::int32_t) {
                   if (quant::choose_scale_type({rows, slice.type, count, slice.cols}, format) == quant::ScaleType::f32)
                       wide = true;
               }});
    return wide ? quant::ScaleType::f32 : quant::ScaleType::f16;
}

void TrunkLoader::read_rows(const std::string& name, RowJob job) {
    RowReader rows(reader_, staging_, pool_, clock_);
    std::vector<RowsDone> done;
    rows.push(std::move(job));
    while (done.empty()) rows.wait(done);
    counters_.bytes += rows.counters().bytes;
    counters_.reads += rows.counters().reads;
    counters_.arrival_ns += rows.counters().arrival_ns;
    if (done.front().error) throw with_context(name, *done.front().error);
}

std::vector<MatrixHandle> TrunkLoader::load_record(const std::string& name, const std::shared_ptr<const io::File>& file,
                                                   const RecordExtent& extent, std::span<const Part> parts,
                                                   std::span<const std::span<const float>> biases) {
    check_trunk_record(name, extent, parts, biases);
    require_inside(*file, extent.offset, extent.bytes, name);
    const std::vector<std::span<const float>> none(parts.size());
    auto memory = make_memory(extent.bytes, biases.empty() ? std::span(none) : biases);
    read_whole(name, file, extent, memory->pages.span());
    for (std::size_t i = 0; i < parts.size(); ++i)
        memory->matrices.push_back(matrix_at(memory->pages.data() + parts[i].offset, parts[i].spec, memory->biases[i]));
    std::vector<MatrixHandle> handles;
    for (const kernels::Matrix& matrix : memory->matrices) handles.emplace_back(memory, &matrix);
    return handles;
}

void TrunkLoader::read_whole(const std::string& name, const std::shared_ptr<const io::File>& file,
                             const RecordExtent& extent, std::span<std::byte> into) {
    const io::ReadRequest request{.file = file, .offset = extent.offset, .destination = into};
    reader_.submit({&request, 1});
    std::vector<io::Completion> done;
    while (done.empty()) reader_.wait(done);
    counters_.bytes += into.size();
    counters_.reads += 1;
    if (auto error = read_error(done.front(), *file, extent.offset, extent.bytes, name)) throw *error;
    if (auto error = change_error(*file)) throw with_context(name, *error);
    if (verify_ == Verify::never) return;
    const Nanos begin = clock_.now();
    const std::uint64_t sum = xxh64(into);
    counters_.arrival_ns += clock_.now() - begin;
    require(sum == extent.checksum, ErrorKind::integrity, name, ": the record of ", extent.bytes, " bytes at offset ",
            extent.offset, " of ", file->path(), " has checksum 0x", std::hex, sum, ", expected 0x", extent.checksum,
            ": its bytes have changed. Pack the model again, and check the disk");
}

}  // namespace moestro::store
