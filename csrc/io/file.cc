#include "io/file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/error.h"
#include "base/process.h"

namespace nspjax {

namespace {

constexpr int64_t kAllocatedAtOnce = 1 << 30;  // what a signal interrupts begins anew

}  // namespace

File::File(int fd, std::string path) : fd_(fd), path_(std::move(path)) { close_in_children(fd); }

File::File(File&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}

File& File::operator=(File&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(path_, other.path_);
  return *this;
}

File::~File() {
  if (fd_ < 0) return;
  forget_in_children(fd_);
  ::close(fd_);
}

void File::fail_io(const char* what, int64_t bytes, int64_t offset, int error) const {
  fail(kind_of_errno(error), what, " of ", bytes, " bytes at offset ", offset, " of ", path_,
       " failed: ", errno_text(error));
}

namespace {

struct stat stat_of(const File& file) {
  struct stat info{};
  if (::fstat(file.fd(), &info) != 0) file.fail_io("stat", 0, 0, errno);
  return info;
}

}  // namespace

int64_t File::size_bytes() const { return stat_of(*this).st_size; }

int64_t File::allocated_bytes() const { return int64_t{stat_of(*this).st_blocks} * 512; }

void File::resize(int64_t bytes) const {
  if (::ftruncate(fd_, bytes) != 0) fail_io("resize", bytes, 0, errno);
}

bool File::allocate(int64_t offset, int64_t bytes) const {
  const int64_t size = size_bytes();
  for (int64_t done = 0; done < bytes;) {
    const int64_t now = std::min(kAllocatedAtOnce, bytes - done);
    if (::fallocate(fd_, 0, offset + done, now) == 0) {
      done += now;
    } else if (errno != EINTR) {
      const int error = errno;
      if (error == EOPNOTSUPP || error == ENOSYS) return false;
      punch_hole(offset, bytes);
      if (size_bytes() > size) resize(size);
      fail_io("reserving room", bytes, offset, error);
    }
  }
  return true;
}

bool File::bypass_page_cache() const {
  const int flags = ::fcntl(fd_, F_GETFL);
  if (flags >= 0 && ::fcntl(fd_, F_SETFL, flags | O_DIRECT) == 0) return true;
  if (errno == EINVAL) return false;
  fail_io("fcntl", 0, 0, errno);
}

void File::sync() const {
  if (::fdatasync(fd_) != 0) fail_io("sync", size_bytes(), 0, errno);
}

bool File::punch_hole(int64_t offset, int64_t bytes) const {
  if (::fallocate(fd_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, bytes) == 0) return true;
  if (errno == EOPNOTSUPP || errno == ENOSYS) return false;
  fail_io("punching a hole", bytes, offset, errno);
}

int64_t File::read_at(std::span<std::byte> into, int64_t offset) const {
  int64_t done = 0;
  while (done < std::ssize(into)) {
    const ssize_t n =
        ::pread(fd_, into.data() + done, into.size() - static_cast<size_t>(done), offset + done);
    if (n == 0) break;
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("read", std::ssize(into) - done, offset + done, errno);
    done += n;
  }
  return done;
}

void File::write_at(std::span<const std::byte> from, int64_t offset) const {
  int64_t done = 0;
  while (done < std::ssize(from)) {
    const ssize_t n =
        ::pwrite(fd_, from.data() + done, from.size() - static_cast<size_t>(done), offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_io("write", std::ssize(from) - done, offset + done, errno);
    done += n;
  }
}

}  // namespace nspjax
