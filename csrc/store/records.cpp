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

}  // namespace moestro::store
