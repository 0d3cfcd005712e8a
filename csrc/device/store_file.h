// A file of a store in a directory: one process's, marked as ours, past the page cache.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "device/extents.h"
#include "io/file.h"

namespace nspjax {

struct StoreFile {
  File lock;  // buffered: lock and superblock
  File data;
  bool direct = true;

  bool is_open() const { return lock.is_open(); }
  const std::string& path() const { return lock.path(); }
  // What the file system has for this user.
  int64_t free_bytes() const;
  // An extent that the file is long enough for.
  Extent reserve(Extents& extents, int64_t bytes);
  // Gives the space back to the file system and the file to others.
  void close();
};

// Locked and made empty. holds: "the KV cache", for a warning.
// Throws StorePath, StoreBusy, StoreDamaged.
StoreFile open_store_file(const std::string& directory, const std::string& name, const char* holds,
                          std::vector<std::string>& warnings);

}  // namespace nspjax
