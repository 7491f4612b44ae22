// Files for tests: random bytes on disk, gone with the object.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

namespace moestro::io {

class TemporaryFile {
  public:
    explicit TemporaryFile(std::size_t bytes, unsigned seed = 1) : path_(testing::TempDir() + "moestro-XXXXXX") {
        const int descriptor = ::mkstemp(path_.data());
        if (descriptor < 0) std::abort();
        ::close(descriptor);
        fill(bytes, seed);
    }
    ~TemporaryFile() { ::unlink(path_.c_str()); }
    TemporaryFile(const TemporaryFile&) = delete;
    TemporaryFile& operator=(const TemporaryFile&) = delete;

    // Rewrites the same file (same inode) and pushes it to the disk, so that direct reads have something to read.
    void fill(std::size_t bytes, unsigned seed) {
        std::mt19937_64 random(seed);
        std::vector<std::uint64_t> words(bytes / sizeof(std::uint64_t) + 1);
        for (std::uint64_t& word : words) word = random();
        const auto* begin = reinterpret_cast<const std::byte*>(words.data());
        contents_.assign(begin, begin + bytes);
        std::FILE* out = std::fopen(path_.c_str(), "wb");
        if (!out || std::fwrite(begin, 1, bytes, out) != bytes) std::abort();
        std::fflush(out);
        ::fsync(::fileno(out));
        std::fclose(out);
    }

    const std::string& path() const { return path_; }
    const std::vector<std::byte>& contents() const { return contents_; }

  private:
    std::string path_;
    std::vector<std::byte> contents_;
};

}  // namespace moestro::io
