#include "io/read_batch.h"

#include <cstring>
#include <utility>

#include "base/error.h"

namespace moestro::io {

const std::shared_ptr<const File>& ReadBatch::open(const std::string& path) {
    std::shared_ptr<const File>& file = files_[path];
    if (!file) {
        try {
            file = File::open(path, cache_);
        } catch (...) {
            files_.erase(path);
            throw;
        }
    }
    return file;
}

std::uint64_t ReadBatch::submit(const std::string& path, std::uint64_t offset, std::span<std::byte> into, bool urgent) {
    const std::shared_ptr<const File>& file = open(path);
    require(offset <= file->size() && into.size() <= file->size() - offset, ErrorKind::usage, into.size(),
            " bytes at offset ", offset, " of ", path, " were asked for, but the file ends at ", file->size());
    const ReadRequest request{file, offset, into, last_ + 1, urgent};
    reader_->submit({&request, 1});
    requests_.emplace(++last_, request);
    return last_;
}

std::vector<std::uint64_t> ReadBatch::wait() {
    if (complete_.empty() && !requests_.empty()) {
        std::vector<Completion> done;
        reader_->wait(done);
        std::string failure;
        for (const Completion& one : done) {
            const ReadRequest& request = requests_.at(one.tag);
            const bool whole = one.error == 0 && one.bytes == request.destination.size();
            if (whole) {
                complete_.push_back(one.tag);
                continue;
            }
            if (failure.empty())
                failure = text("reading ", request.destination.size(), " bytes at offset ", request.offset, " of ",
                               request.file->path(),
                               " failed: ", one.error ? std::strerror(one.error) : "the file ended before them");
            requests_.erase(one.tag);
        }
        if (!failure.empty()) throw Error(ErrorKind::io, failure);
    }
    for (const std::uint64_t number : complete_) requests_.erase(number);
    return std::exchange(complete_, {});
}

}  // namespace moestro::io
