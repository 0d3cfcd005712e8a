#include "io/file_lock.h"

#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <sstream>
#include <string>

namespace nspjax {
namespace {

bool locks(const File& file, int operation) {
  int result = 0;
  do {
    result = ::flock(file.fd(), operation | LOCK_NB);
  } while (result != 0 && errno == EINTR);
  if (result != 0 && errno != EWOULDBLOCK) file.fail_io("locking", 0, 0, errno);
  return result == 0;
}

}  // namespace

FileLock try_lock(const File& file) {
  if (locks(file, LOCK_EX)) return FileLock::kOurs;
  if (!locks(file, LOCK_SH)) return FileLock::kTaken;
  unlock(file);
  return FileLock::kShared;
}

void unlock(const File& file) {
  if (::flock(file.fd(), LOCK_UN) != 0) file.fail_io("unlocking", 0, 0, errno);
}

// /proc/locks: "1: FLOCK  ADVISORY  WRITE 4711 fe:00:4194323 0 EOF". Who waits has "->" there.
std::optional<pid_t> lock_holder(const File& file) {
  struct stat info{};
  if (::fstat(file.fd(), &info) != 0) return std::nullopt;
  std::array<char, 64> place{};
  std::snprintf(place.data(), place.size(), "%02x:%02x:%llu", major(info.st_dev),
                minor(info.st_dev), static_cast<unsigned long long>(info.st_ino));
  std::ifstream locks_of_all("/proc/locks");
  for (std::string line; std::getline(locks_of_all, line);) {
    std::istringstream fields(line);
    std::string number, type, advisory, access, of;
    pid_t pid = 0;
    if (!(fields >> number >> type >> advisory >> access >> pid >> of)) continue;
    if (type != "FLOCK" || of != place.data()) continue;
    // who took it may have ended, and left it to a child
    if (pid > 0 && (::kill(pid, 0) == 0 || errno == EPERM)) return pid;
  }
  return std::nullopt;
}

}  // namespace nspjax
