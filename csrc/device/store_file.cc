#include "device/store_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <optional>

#include "base/align.h"
#include "device/superblock.h"

namespace nspjax {
namespace {

File open_exclusively(const std::string& directory, const std::string& name) {
  struct stat info{};
  if (::stat(directory.c_str(), &info) != 0) {
    fail(ErrorKind::kStorePath, directory, " cannot be used as a store: ", errno_text(errno),
         "; give an existing directory");
  }
  if (!S_ISDIR(info.st_mode)) {
    fail(ErrorKind::kStorePath, directory, " is not a directory: give the directory for the store");
  }
  File file = File::open(directory + "/" + name, O_RDWR | O_CREAT);
  if (::flock(file.fd(), LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error != EWOULDBLOCK) file.fail_io("locking", 0, 0, error);
    const std::optional<pid_t> owner = superblock_owner(file);
    fail(ErrorKind::kStoreBusy, file.path(), " is opened by ",
         owner == ::getpid() ? "this process already" : "another process",
         owner && *owner != ::getpid() ? concat(" (pid ", *owner, ")") : "",
         ": close that store, or give another directory");
  }
  check_superblock(file);
  write_superblock(file);
  return file;
}

}  // namespace

StoreFile open_store_file(const std::string& directory, const std::string& name, const char* holds,
                          std::vector<std::string>& warnings) {
  StoreFile file{.lock = open_exclusively(directory, name), .data = {}};
  const int fd = ::open(file.path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  if (fd >= 0) {
    file.data = File(fd, file.path());
  } else if (errno == EINVAL) {
    file.direct = false;
    file.data = File::open(file.path(), O_RDWR);
    warnings.push_back(concat("the file system of ", directory, " has no O_DIRECT: ", holds,
                              " goes through the page cache, which costs host memory and speed"));
  } else {
    file.lock.fail_io("opening", 0, 0, errno);
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
    if (lock.size_bytes() < extents.end()) lock.resize(extents.end());
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
  // a forked child may have the descriptor, and the lock, still
  if (::flock(closing.fd(), LOCK_UN) != 0) closing.fail_io("unlocking", 0, 0, errno);
}

}  // namespace nspjax
