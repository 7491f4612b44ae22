#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "base/memory.h"
#include "base/types.h"
#include "io/reader.h"
#include "io/temporary_file.h"

namespace moestro::io {
namespace {

ErrorKind kind_of(const std::function<void()>& action, std::string* message = nullptr) {
    try {
        action();
    } catch (const Error& error) {
        if (message) *message = error.what();
        return error.kind();
    }
    ADD_FAILURE() << "no error";
    return ErrorKind::internal;
}

TEST(File, BufferedTakesAnyAlignment) {
    const TemporaryFile data(12345);
    const auto file = File::open(data.path(), File::Cache::buffered);
    EXPECT_FALSE(file->direct());
    EXPECT_EQ(file->alignment(), 1u);
    EXPECT_EQ(file->size(), 12345u);
    EXPECT_EQ(file->path(), data.path());
    EXPECT_EQ(file->refusal(), "");
}

TEST(File, DirectIsDirectOrSaysWhyNot) {
    const TemporaryFile data(3 * kPageBytes);
    const auto file = File::open(data.path(), File::Cache::direct);
    EXPECT_EQ((::fcntl(file->descriptor(), F_GETFL) & O_DIRECT) != 0, file->direct());
    EXPECT_EQ(file->refusal().empty(), file->direct());
    if (!file->direct()) {
        EXPECT_NE(file->refusal().find(data.path()), std::string::npos);
        return;
    }
    EXPECT_TRUE(std::has_single_bit(file->alignment()));
    EXPECT_LE(file->alignment(), kPageBytes);
    // The promise: a read at an odd multiple of the alignment, into memory just as aligned, works.
    const PageBuffer memory(2 * kPageBytes);
    const std::size_t unit = file->alignment();
    EXPECT_EQ(::pread(file->descriptor(), memory.data() + unit, unit, static_cast<off_t>(unit)),
              static_cast<ssize_t>(unit));
}

TEST(File, AFileSystemWithoutDirectReadsIsSaid) {
    // procfs never takes O_DIRECT.
    const auto file = File::open("/proc/self/status", File::Cache::direct);
    EXPECT_FALSE(file->direct());
    EXPECT_EQ(file->alignment(), 1u);
    EXPECT_NE(file->refusal().find("/proc/self/status"), std::string::npos) << file->refusal();
}

TEST(File, EmptyFilesOpen) {
    const TemporaryFile data(0);
    EXPECT_EQ(File::open(data.path(), File::Cache::direct)->size(), 0u);
    EXPECT_EQ(File::open(data.path(), File::Cache::buffered)->size(), 0u);
}

TEST(File, WhatCannotBeOpenedIsNamed) {
    std::string message;
    EXPECT_EQ(kind_of([] { File::open("/no/such/file", File::Cache::direct); }, &message), ErrorKind::io);
    EXPECT_NE(message.find("/no/such/file: No such file"), std::string::npos) << message;
    EXPECT_EQ(kind_of([] { File::open(testing::TempDir(), File::Cache::buffered); }, &message), ErrorKind::io);
    EXPECT_NE(message.find("regular file"), std::string::npos) << message;
}

TEST(File, AFifoIsRefusedWithoutBlocking) {
    const std::string path = testing::TempDir() + "moestro-fifo-" + std::to_string(::getpid());
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    EXPECT_EQ(kind_of([&] { File::open(path, File::Cache::direct); }), ErrorKind::io);
    ::unlink(path.c_str());
}

class FileWatch : public testing::TestWithParam<File::Cache> {};

TEST_P(FileWatch, UntouchedFilesPass) {
    const TemporaryFile data(5000);
    const auto file = File::open(data.path(), GetParam());
    EXPECT_NO_THROW(file->check_unchanged());
}

TEST_P(FileWatch, ATruncatedFileIsFound) {
    const TemporaryFile data(5000);
    const auto file = File::open(data.path(), GetParam());
    ASSERT_EQ(::truncate(data.path().c_str(), 4999), 0);
    std::string message;
    EXPECT_EQ(kind_of([&] { file->check_unchanged(); }, &message), ErrorKind::integrity);
    EXPECT_NE(message.find("5000"), std::string::npos) << message;
    EXPECT_NE(message.find("4999"), std::string::npos) << message;
}

TEST_P(FileWatch, ATouchedFileIsFound) {
    const TemporaryFile data(5000);
    const auto file = File::open(data.path(), GetParam());
    const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_OMIT}, {.tv_sec = 1'000'000, .tv_nsec = 7}};
    ASSERT_EQ(::utimensat(AT_FDCWD, data.path().c_str(), times, 0), 0);
    EXPECT_EQ(kind_of([&] { file->check_unchanged(); }), ErrorKind::integrity);
}

TEST_P(FileWatch, AReplacedFileIsFoundEvenWithEqualSizeAndTime) {
    const TemporaryFile data(5000), other(5000);
    const auto file = File::open(data.path(), GetParam());
    struct stat before {};
    ASSERT_EQ(::stat(data.path().c_str(), &before), 0);
    const timespec times[2] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(::utimensat(AT_FDCWD, other.path().c_str(), times, 0), 0);
    ASSERT_EQ(::rename(other.path().c_str(), data.path().c_str()), 0);
    std::string message;
    EXPECT_EQ(kind_of([&] { file->check_unchanged(); }, &message), ErrorKind::integrity);
    EXPECT_NE(message.find("replaced"), std::string::npos) << message;
}

TEST_P(FileWatch, ARemovedFileIsFound) {
    const TemporaryFile data(5000);
    const auto file = File::open(data.path(), GetParam());
    ASSERT_EQ(::unlink(data.path().c_str()), 0);
    EXPECT_EQ(kind_of([&] { file->check_unchanged(); }), ErrorKind::integrity);
}

TEST_P(FileWatch, ARelativePathOutlivesAChangeOfDirectory) {
    const TemporaryFile data(5000);
    const std::filesystem::path before = std::filesystem::current_path(), path = data.path();
    std::filesystem::current_path(path.parent_path());
    const auto file = File::open(path.filename(), GetParam());
    std::filesystem::current_path("/");
    EXPECT_NO_THROW(file->check_unchanged());
    std::filesystem::current_path(before);
    EXPECT_EQ(file->path(), data.path());
}

TEST_P(FileWatch, ASymbolicLinkIsFollowedAndWatched) {
    const TemporaryFile data(5000), other(5000);
    const std::string link = data.path() + "-link";
    ASSERT_EQ(::symlink(data.path().c_str(), link.c_str()), 0);
    const auto file = File::open(link, GetParam());
    EXPECT_EQ(file->size(), 5000u);
    EXPECT_NO_THROW(file->check_unchanged());
    ASSERT_EQ(::unlink(link.c_str()), 0);
    ASSERT_EQ(::symlink(other.path().c_str(), link.c_str()), 0);
    EXPECT_EQ(kind_of([&] { file->check_unchanged(); }), ErrorKind::integrity);
    ::unlink(link.c_str());
}

INSTANTIATE_TEST_SUITE_P(Caches, FileWatch, testing::Values(File::Cache::direct, File::Cache::buffered),
                         [](const auto& cache) { return cache.param == File::Cache::direct ? "direct" : "buffered"; });

}  // namespace
}  // namespace moestro::io
