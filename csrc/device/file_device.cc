#include "device/file_device.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <exception>
#include <limits>

#include "device/superblock.h"

namespace nspjax {
namespace {

using Clock = std::chrono::steady_clock;

int64_t ns_since(Clock::time_point begin) {
  return std::chrono::nanoseconds(Clock::now() - begin).count();
}

// The store's file in `directory`, locked and made empty.
File open_exclusively(const std::string& directory) {
  struct stat info{};
  if (::stat(directory.c_str(), &info) != 0) {
    fail(ErrorKind::kStorePath, directory, " cannot be used as a store: ", errno_text(errno),
         "; give an existing directory");
  }
  if (!S_ISDIR(info.st_mode)) {
    fail(ErrorKind::kStorePath, directory, " is not a directory: give the directory for the store");
  }
  File file = File::open(directory + "/nspjax.kv", O_RDWR | O_CREAT);
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

FileDevice::FileDevice(std::string spec, const std::string& directory, const HostBudget& budget,
                       std::unique_ptr<IoQueue> queue, std::vector<std::string>& warnings)
    : spec_(std::move(spec)),
      lock_(open_exclusively(directory)),
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
  extents_.release(extent);
  lock_.punch_hole(extent.offset, extent.bytes);
}

template <class Begin, class End, class IdleSince>
int64_t FileDevice::pump(IoOp op, std::span<const TileRange> ranges, const Begin& begin,
                         const End& end, const IdleSince& idle_since) {
  struct InFlight {
    size_t index = 0;
    StagingRing::Slot slot;
  };
  std::vector<InFlight> in_flight(static_cast<size_t>(staging_.n_slots()));
  std::vector<size_t> free_tags;
  for (size_t tag = in_flight.size(); tag-- > 0;) free_tags.push_back(tag);
  size_t next = 0;
  int64_t waited_ns = 0;
  std::exception_ptr error;
  const auto stop = [&](std::exception_ptr why) {
    if (!error) error = std::move(why);
    next = ranges.size();
  };

  while (next < ranges.size() || transfers_.in_flight() > 0) {
    while (next < ranges.size()) {
      StagingRing::Slot slot = staging_.try_acquire();
      if (!slot) break;
      const size_t index = next++;
      try {
        begin(index, slot.get());
      } catch (...) {
        stop(std::current_exception());
        break;
      }
      const size_t tag = free_tags.back();
      free_tags.pop_back();
      in_flight[tag] = {index, slot};
      transfers_.start({op, slot.get(), ranges[index].bytes, ranges[index].offset, tag});
    }
    if (transfers_.in_flight() == 0) {
      if (next < ranges.size()) staging_.wait_for_free();  // all are with the attention workers
      continue;
    }
    const auto begun = Clock::now();
    std::vector<TransferDone> all_done = transfers_.wait();
    if (const auto idle = idle_since()) waited_ns += ns_since(std::max(begun, *idle));
    for (TransferDone& done : all_done) {
      InFlight finished = std::exchange(in_flight[done.tag], {});
      free_tags.push_back(done.tag);
      if (done.error) {
        stop(std::make_exception_ptr(*done.error));
        continue;
      }
      try {
        end(finished.index, std::move(finished.slot));
      } catch (...) {
        stop(std::current_exception());
      }
    }
  }
  if (error) std::rethrow_exception(error);
  return waited_ns;
}

void FileDevice::write(std::span<const TileWrite> writes) {
  std::vector<TileRange> ranges;
  ranges.reserve(writes.size());
  for (const TileWrite& write : writes) ranges.push_back(write.range);
  stats_.write_ns += pump(
      IoOp::kWrite, ranges, [&](size_t i, std::byte* slot) { writes[i].pack(slot); },
      [&](size_t i, StagingRing::Slot) {
        stats_.bytes_written += ranges[i].bytes;
        ++stats_.n_writes;
      },
      [] { return std::optional(Clock::time_point::min()); });
}

void FileDevice::scan(std::span<const TileRange> ranges, ScanVisitor& visitor) {
  stats_.read_ns += pump(
      IoOp::kRead, ranges, [](size_t, std::byte*) {},
      [&](size_t i, StagingRing::Slot slot) {
        stats_.bytes_read += ranges[i].bytes;
        ++stats_.n_reads;
        visitor.ready(i, std::move(slot));
      },
      [&] { return visitor.idle_since(); });
}

void FileDevice::flush() { data_.sync(); }

}  // namespace nspjax
