#include "store/records.h"

#include "base/error.h"

namespace moestro::store {

bool fits_record(const Part& part, std::size_t record_bytes) {
    const std::size_t bytes = part.spec.bytes();
    return part.offset % quant::kPartAlign == 0 && bytes <= record_bytes && part.offset <= record_bytes - bytes;
}

void require_inside(const io::File& file, std::uint64_t offset, std::uint64_t bytes, const std::string& what) {
    require(offset <= file.size() && bytes <= file.size() - offset, ErrorKind::checkpoint, what, ": ", bytes,
            " bytes at offset ", offset, " of ", file.path(), " were expected, but the file ends at ", file.size(),
            ": it is cut off, fetch it again");
}

const std::shared_ptr<const io::File>& file_at(const Files& files, int file) {
    require(file >= 0 && static_cast<std::size_t>(file) < files.size(), ErrorKind::usage, "there is no file number ",
            file, ": ", files.size(), " are open");
    return files[static_cast<std::size_t>(file)];
}

void require_slice(const std::string& what, const TensorSlice& slice) {
    quant::require_shape(what, slice.rows, slice.cols);
    const std::int32_t rows = slice.stack > 1 ? slice.stack_rows : slice.rows;
    require(slice.stack >= 1 && slice.rows % slice.stack == 0 && 0 < rows && rows <= slice.rows / slice.stack,
            ErrorKind::usage, what, ": ", slice.rows, " rows cannot be a stack of ", slice.stack, " matrices of ",
            rows);
    require(slice.column_stride >= 0 && slice.column_step >= 1 &&
                (slice.column_stride == 0 || std::int64_t{rows - 1} * slice.column_step < slice.column_stride),
            ErrorKind::usage, what, ": ", rows, " columns, every ", slice.column_step, ", do not fit a table of ",
            slice.column_stride);
    require(slice.column_stride <= quant::kMostElements / slice.cols &&
                slice.stack_bytes <= static_cast<std::uint64_t>(quant::kMostElements / slice.stack),
            ErrorKind::usage, what, ": strides of ", slice.column_stride, " elements and ", slice.stack_bytes,
            " bytes lead beyond any file");
}

}  // namespace moestro::store
