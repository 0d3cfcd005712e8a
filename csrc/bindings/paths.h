// Paths between Python and the engine: any bytes, as the file system has them.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <vector>

namespace nspjax {

// Of a str (os.fsencode), bytes or os.PathLike. Throws InvalidArgument for what is no path.
std::string path_bytes(nanobind::handle path);
std::vector<std::string> path_bytes(const nanobind::list& paths);
// As os.fsdecode gives it.
nanobind::object path_text(const std::string& path);

}  // namespace nspjax
