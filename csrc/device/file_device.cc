#include "device/file_device.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "device/superblock.h"

namespace nspjax {
namespace {

// The store's file in `directory`, locked and made empty.
File open_exclusively(const std::string& directory, const std::string& file_name) {
  struct stat info{};
  if (::stat(directory.c_str(), &info) != 0) {
    fail(ErrorKind::kStorePath, directory, " cannot be used as a store: ", errno_text(errno),
         "; give an existing directory");
  }
  if (!S_ISDIR(info.st_mode)) {
    fail(ErrorKind::kStorePath, directory, " is not a directory: give the directory for the store");
  }
  File file = File::open(directory + "/" + file_name, O_RDWR | O_CREAT);
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

FileDevice::FileDevice(std::string spec, const std::string& directory, const std::string& file_name,
                       const HostBudget& budget, std::unique_ptr<IoQueue> queue,
                       std::vector<std::string>& warnings)
    : spec_(std::move(spec)),
      lock_(open_exclusively(directory, file_name)),
      staging_(budget.slots, budget.slot_bytes),
      transfers_(data_, std::move(queue)) {
  const int fd = ::open(lock_.path().c_str(), O_RDWR | O_DIRECT | O_CLOEXEC);
  if (fd >= 0) {
    data_ = File(fd, lock_.path());
  } else if (errno == EINVAL) {
    direct_ = false;
    data_ = File::open(lock_.path(), O_RDWR);
    warnings.push_back(concat("the file system of ", directory,
                              " has no O_DIRECT: the KV cache goes through the page cache, which ",
                              "costs host memory and speed"));
  } else {
    lock_.fail_io("opening", 0, 0, errno);
  }
  registered_ = transfers_.register_arena(staging_.arena());
}

FileDevice::~FileDevice() {
  try {
    close();
  } catch (const Error&) {
    // Nobody is there to be told; whoever opens the file next empties it.
  }
}

void FileDevice::close() {
  if (!lock_.is_open()) return;
  while (transfers_.in_flight() > 0) complete(true);  // into buffers that are ours still
  reads_.clear();
  writes_.clear();
  const File data = std::move(data_);
  const File lock = std::move(lock_);
  lock.resize(kPageBytes);
  // a forked child may have the descriptor, and the lock, still
  if (::flock(lock.fd(), LOCK_UN) != 0) lock.fail_io("unlocking", 0, 0, errno);
}

DeviceInfo FileDevice::info() const {
  return {spec_,
          "file",
          lock_.path(),
          direct_,
          std::string(transfers_.queue_name()),
          registered_,
          extents_.reserved_bytes(),
          available_bytes()};
}

int64_t FileDevice::available_bytes() const {
  if (!lock_.is_open()) return 0;
  struct statvfs info{};
  if (::fstatvfs(lock_.fd(), &info) != 0) lock_.fail_io("statvfs", 0, 0, errno);
  if (info.f_blocks == 0) return std::numeric_limits<int64_t>::max() / 2;  // ramfs has no size
  const auto free = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  const int64_t written = lock_.allocated_bytes() - kPageBytes;
  const int64_t promised = std::max<int64_t>(0, extents_.reserved_bytes() - written);
  return std::max<int64_t>(0, free - promised);
}

Extent FileDevice::reserve(int64_t bytes) {
  const Extent extent = extents_.reserve(bytes);
  try {
    if (lock_.size_bytes() < extents_.end()) lock_.resize(extents_.end());
  } catch (...) {
    extents_.release(extent);
    throw;
  }
  return extent;
}

void FileDevice::release(const Extent& extent) {
  const TileRange range{extent.offset, extent.bytes};
  forget_reads(range);
  settle_writes(range);
  extents_.release(extent);
  lock_.punch_hole(extent.offset, extent.bytes);
}

void FileDevice::start(IoOp op, std::byte* data, const TileRange& range,
                       std::variant<Reads::iterator, Writes::iterator> what) {
  if (free_tags_.empty()) {
    free_tags_.push_back(tags_.size());
    tags_.emplace_back();
  }
  const size_t tag = free_tags_.back();
  free_tags_.pop_back();
  tags_[tag] = what;
  transfers_.start({op, data, range.bytes, range.offset, tag});
}

void FileDevice::complete(bool wait) {
  const bool waits = wait && transfers_.in_flight() > 0;
  for (const TransferDone& done : waits ? transfers_.wait() : transfers_.poll()) {
    const auto what = *std::exchange(tags_[done.tag], std::nullopt);
    free_tags_.push_back(done.tag);
    if (const auto* read = std::get_if<Reads::iterator>(&what)) {
      finish_read(*read, done.error);
    } else {
      finish_write(std::get<Writes::iterator>(what), done.error);
    }
  }
}

}  // namespace nspjax
