// Files of ours, in directories where others may have put something in their place: a link, a FIFO,
// a device node, a file of theirs.
#pragma once

#include <optional>
#include <string>

#include "io/file.h"

namespace nspjax {

// To open files in; it may be reached by a link. Throws StorePath.
File open_directory(const std::string& path);

// What is there, if it is a plain file of this user, which has no other name; nothing where nothing
// is there. No link is followed and nothing waited for. flags: O_RDONLY or O_RDWR.
// Throws StorePath with what it is instead.
std::optional<File> open_plain(const File& directory, const std::string& name, int flags);

// A new one, which only this user may open, whatever the umask. Nothing where something is there.
// Throws StorePath, StoreFull.
std::optional<File> make_plain(const File& directory, const std::string& name);

// Whether other users may open it, or could when it was opened.
bool others_may_open(const File& file);
// Whether that is the file that has its name.
bool has_its_name(const File& directory, const std::string& name, const File& file);
// Whether both are one.
bool same_file(const File& a, const File& b);

}  // namespace nspjax
