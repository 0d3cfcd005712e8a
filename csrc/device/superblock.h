// The first page of a store's file: that it is ours, and whose it is.
#pragma once

#include <sys/types.h>

#include <optional>

#include "io/file.h"

namespace nspjax {

// Throws StoreDamaged where the file is not empty and not a sound store of ours.
void check_superblock(const File& file);
// Makes the file this process's: an empty store.
void write_superblock(const File& file);
// Who wrote the superblock, if it can be told.
std::optional<pid_t> superblock_owner(const File& file);

}  // namespace nspjax
