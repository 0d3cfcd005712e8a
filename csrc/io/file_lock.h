// Whose a file is: a flock, which goes with the process that has it.
#pragma once

#include <sys/types.h>

#include <optional>

#include "io/file.h"

namespace nspjax {

enum class FileLock {
  kOurs,    // locked now
  kShared,  // somebody has a shared lock: no store, since those lock exclusively
  kTaken,   // somebody has it
};
// Does not wait. Throws StorageIO.
FileLock try_lock(const File& file);
void unlock(const File& file);
// The process that has a lock on it, as far as the kernel tells.
std::optional<pid_t> lock_holder(const File& file);

}  // namespace nspjax
