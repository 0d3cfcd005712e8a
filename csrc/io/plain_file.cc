#include "io/plain_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"

namespace nspjax {
namespace {

constexpr mode_t kOwnerOnly = 0600;
constexpr const char* kTodo = ": remove it, or give another directory";

int open_at(const File& directory, const std::string& name, int flags) {
  int fd = -1;
  do {
    fd = ::openat(directory.fd(), name.c_str(), flags | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC,
                  kOwnerOnly);
  } while (fd < 0 && errno == EINTR);
  return fd;
}

std::string path_of(const File& directory, const std::string& name) {
  return directory.path() + "/" + name;
}

struct stat stat_of(const File& file) {
  struct stat info{};
  if (::fstat(file.fd(), &info) != 0) file.fail_io("stat", 0, 0, errno);
  return info;
}

// Empty for a plain file of this user.
std::string oddity(const struct stat& info) {
  if (S_ISLNK(info.st_mode)) return "is a symbolic link";
  if (S_ISDIR(info.st_mode)) return "is a directory";
  if (S_ISFIFO(info.st_mode)) return "is a FIFO";
  if (S_ISSOCK(info.st_mode)) return "is a socket";
  if (!S_ISREG(info.st_mode)) return "is a device node";
  if (info.st_uid != ::geteuid()) {
    return concat("belongs to user ", info.st_uid, ", not to ", ::geteuid());
  }
  if (info.st_nlink > 1) return concat("has ", info.st_nlink, " names (hard links)");
  return "";
}

[[noreturn]] void fail_open(const File& directory, const std::string& name, int error) {
  const std::string path = path_of(directory, name);
  struct stat info{};
  if (::fstatat(directory.fd(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) == 0) {
    const std::string what = oddity(info);  // for the text only
    if (!what.empty()) fail(ErrorKind::kStorePath, "cannot use ", path, ", which ", what, kTodo);
  }
  const ErrorKind kind =
      error == ENOSPC || error == EDQUOT ? ErrorKind::kStoreFull : ErrorKind::kStorePath;
  fail(kind, "cannot open ", path, ": ", errno_text(error),
       "; give a directory that this user may write to");
}

}  // namespace

File open_directory(const std::string& path) {
  const int fd = ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) return File(fd, path);
  if (errno == ENOTDIR) {
    fail(ErrorKind::kStorePath, path, " is not a directory: give the directory for the store");
  }
  fail(ErrorKind::kStorePath, path, " cannot be used as a store: ", errno_text(errno),
       "; give an existing directory");
}

std::optional<File> open_plain(const File& directory, const std::string& name, int flags) {
  const int fd = open_at(directory, name, flags | O_NONBLOCK);
  if (fd < 0 && errno == ENOENT) return std::nullopt;
  if (fd < 0) fail_open(directory, name, errno);
  File file(fd, path_of(directory, name));
  const std::string what = oddity(stat_of(file));
  if (!what.empty()) {
    fail(ErrorKind::kStorePath, "cannot use ", file.path(), ", which ", what, kTodo);
  }
  const int now = ::fcntl(fd, F_GETFL);
  if (now < 0 || ::fcntl(fd, F_SETFL, now & ~O_NONBLOCK) != 0) file.fail_io("fcntl", 0, 0, errno);
  return file;
}

std::optional<File> make_plain(const File& directory, const std::string& name) {
  const int fd = open_at(directory, name, O_RDWR | O_CREAT | O_EXCL);
  if (fd < 0 && errno == EEXIST) return std::nullopt;
  if (fd < 0) fail_open(directory, name, errno);
  File file(fd, path_of(directory, name));
  (void)::fchmod(fd, kOwnerOnly);  // a umask takes more; a file system without modes has its own
  return file;
}

bool others_may_open(const File& file) { return (stat_of(file).st_mode & 077) != 0; }

bool has_its_name(const File& directory, const std::string& name, const File& file) {
  struct stat there{};
  const struct stat info = stat_of(file);
  return ::fstatat(directory.fd(), name.c_str(), &there, AT_SYMLINK_NOFOLLOW) == 0 &&
         there.st_dev == info.st_dev && there.st_ino == info.st_ino;
}

bool same_file(const File& a, const File& b) {
  const struct stat of_a = stat_of(a), of_b = stat_of(b);
  return of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

}  // namespace nspjax
