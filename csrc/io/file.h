// An open file, closed with its object. It is of one process: a fork's child has it closed.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace nspjax {

class File {
 public:
  File() = default;
  File(int fd, std::string path);
  File(File&& other) noexcept;
  File& operator=(File&& other) noexcept;
  ~File();

  int fd() const { return fd_; }
  const std::string& path() const { return path_; }
  bool is_open() const { return fd_ >= 0; }

  int64_t size_bytes() const;
  int64_t allocated_bytes() const;  // on disk, holes not counted
  void resize(int64_t bytes) const;
  // Makes the range the file's own, which grows to its end. All or nothing; returns false where the
  // file system cannot promise room.
  bool allocate(int64_t offset, int64_t bytes) const;
  // From now on transfers bypass it; returns false where the file system has no O_DIRECT.
  bool bypass_page_cache() const;
  void sync() const;
  // Returns false where the file system cannot make holes.
  bool punch_hole(int64_t offset, int64_t bytes) const;
  // All of it, at an offset; short reads past the end give the number of bytes that there were.
  int64_t read_at(std::span<std::byte> into, int64_t offset) const;
  void write_at(std::span<const std::byte> from, int64_t offset) const;

  // StorageIO or StoreFull: "write of 4096 bytes at offset 0 of PATH failed: ..."
  [[noreturn]] void fail_io(const char* what, int64_t bytes, int64_t offset, int error) const;

 private:
  int fd_ = -1;
  std::string path_;
};

}  // namespace nspjax
