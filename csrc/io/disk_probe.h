// How fast a file can be read, measured, for `moestro doctor` and the forecast.
#pragma once

#include <cstddef>
#include <memory>

#include "base/clock.h"
#include "io/reader.h"

namespace moestro::io {

struct DiskRate {
    double bytes_per_second = 0;
    std::size_t bytes = 0;  // read for this measurement
    Nanos elapsed = 0;
    bool direct = false;  // false: the page cache took part, the rate says little about the disk
};

// Reads the file once from `offset` (a multiple of 4096) on, in blocks of `block_bytes` (a multiple of 4096) with
// `depth` of them in flight, until it ends or `at_most` is over; takes depth * block_bytes of memory meanwhile.
// REQUIRES a reader with nothing in flight, not used by others meanwhile. What the page cache has of the file there is
// dropped before. Throws Error(usage) for a file shorter than one block or arguments out of range, Error(io) when a
// read fails.
DiskRate measure_read_rate(Reader& reader, std::shared_ptr<const File> file, std::size_t block_bytes, int depth,
                           Nanos at_most, std::uint64_t offset = 0, const Clock& clock = SteadyClock());

}  // namespace moestro::io
