// The first page of a store's file: that it is ours, and whose it is.
#pragma once

#include "io/file.h"

namespace nspjax {

// Throws StoreDamaged where the file is not empty and not a sound store of ours.
void check_superblock(const File& file);
// Makes the file this process's: an empty store.
void write_superblock(const File& file);

}  // namespace nspjax
