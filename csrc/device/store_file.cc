#include "device/store_file.h"

#include <fcntl.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <optional>

#include "base/align.h"
#include "device/superblock.h"
#include "io/file_lock.h"
#include "io/plain_file.h"

namespace nspjax {
namespace {

[[noreturn]] void fail_busy(const File& file, FileLock lock) {
  const std::optional<pid_t> holder = lock_holder(file);
  const bool ours = holder == ::getpid();
  fail(ErrorKind::kStoreBusy, file.path(),
       lock == FileLock::kShared ? " is locked by " : " is opened by ",
       ours     ? "this process already"
       : holder ? concat("another process (pid ", *holder, ")")
                : "another process, or this one",
       ": close that store, or give another directory");
}

// Locked, and only this user's to open. Somebody else may have opened a file that was open to them,
// and would read what is written there from now on, or has it locked: a new one takes its place.
File open_exclusively(const File& directory, const std::string& name) {
  for (;;) {
    std::optional<File> file = open_plain(directory, name, O_RDWR);
    const bool is_new = !file;
    if (is_new) file = make_plain(directory, name);
    if (!file) continue;  // somebody was quicker
    const FileLock lock = try_lock(*file);
    const bool replace = !is_new && others_may_open(*file);
    if (lock == FileLock::kTaken || (lock == FileLock::kShared && !replace)) {
      fail_busy(*file, lock);
    }
    if (!has_its_name(directory, name, *file)) continue;
    check_superblock(*file);
    if (!replace) return std::move(*file);
    if (::unlinkat(directory.fd(), name.c_str(), 0) != 0 && errno != ENOENT) {
      file->fail_io("removing", 0, 0, errno);
    }
  }
}

// A second descriptor of it, without the lock.
File reopen(const File& directory, const std::string& name, const File& locked) {
  std::optional<File> file = open_plain(directory, name, O_RDWR);
  if (file && same_file(*file, locked)) return std::move(*file);
  fail(ErrorKind::kStorePath, locked.path(), " was replaced while it was opened: open it again");
}

}  // namespace

StoreFile open_store_file(const std::string& path, const std::string& name, const char* holds,
                          std::vector<std::string>& warnings) {
  const File directory = open_directory(path);
  StoreFile file{.lock = open_exclusively(directory, name), .data = {}};
  write_superblock(file.lock);
  file.data = reopen(directory, name, file.lock);
  file.direct = file.data.bypass_page_cache();
  if (!file.direct) {
    warnings.push_back(concat("the file system of ", path, " has no O_DIRECT: ", holds,
                              " goes through the page cache, which costs host memory and speed"));
  }
  if (others_may_open(file.lock)) {
    warnings.push_back(concat("the file system of ", path, " keeps no modes: other users may read ",
                              holds, ", from which prompts can be told"));
  }
  if (!file.lock.allocate(0, kPageBytes)) {
    warnings.push_back(concat("the file system of ", path, " cannot reserve room: a cache is ",
                              "made where there is room then, and fails later if other programs ",
                              "take it"));
  }
  return file;
}

int64_t StoreFile::free_bytes() const {
  struct statvfs info{};
  if (::fstatvfs(lock.fd(), &info) != 0) lock.fail_io("statvfs", 0, 0, errno);
  if (info.f_blocks == 0) return std::numeric_limits<int64_t>::max() / 2;  // ramfs has no size
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

Extent StoreFile::reserve(Extents& extents, int64_t bytes) {
  const Extent extent = extents.reserve(bytes);
  try {
    const bool allocated = lock.allocate(extent.offset, extent.bytes);
    if (!allocated && lock.size_bytes() < extents.end()) lock.resize(extents.end());
  } catch (...) {
    extents.release(extent);
    throw;
  }
  return extent;
}

void StoreFile::close() {
  const File closing_data = std::move(data);
  const File closing = std::move(lock);
  closing.resize(kPageBytes);
  unlock(closing);  // whoever has a copy of the descriptor still
}

}  // namespace nspjax
