// Reading for callers that bring their own memory: requests by number, files opened once, failures as errors where they
// are waited for.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "io/reader.h"

namespace moestro::io {

// One thread at a time.
class ReadBatch {
  public:
    ReadBatch(std::unique_ptr<Reader> reader, File::Cache cache) : cache_(cache), reader_(std::move(reader)) {}

    // The memory must stay valid until the request's number was returned. Throws Error(io) for a file that cannot be
    // opened, Error(usage) for a read outside of it, or one that is misaligned where the page cache is bypassed.
    std::uint64_t submit(const std::string& path, std::uint64_t offset, std::span<std::byte> into, bool urgent);
    // Waits for at least one and returns the numbers of those that are complete; nothing when nothing is in flight.
    // Throws Error(io) naming file and place of the first that failed; the others are returned by the next call.
    std::vector<std::uint64_t> wait();
    std::size_t in_flight() const { return requests_.size() - complete_.size(); }
    const std::map<std::uint64_t, ReadRequest>& requests() const { return requests_; }
    // What must be a multiple of what: of reads of this file.
    std::size_t alignment(const std::string& path) { return open(path)->alignment(); }
    ReaderInfo info() const { return reader_->info(); }

  private:
    const std::shared_ptr<const File>& open(const std::string& path);

    const File::Cache cache_;
    std::map<std::string, std::shared_ptr<const File>> files_;
    std::map<std::uint64_t, ReadRequest> requests_;  // by number, until it was returned
    std::vector<std::uint64_t> complete_;            // not returned yet
    std::uint64_t last_ = 0;
    std::unique_ptr<Reader> reader_;
};

}  // namespace moestro::io
