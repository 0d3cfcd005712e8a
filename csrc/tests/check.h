// What the tests here need: checks that say where they failed, and a directory that goes away.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <source_location>
#include <string>

#include "base/error.h"

namespace nspjax::testing {

inline void check(bool good, const char* what,
                  std::source_location at = std::source_location::current()) {
  if (good) return;
  std::fprintf(stderr, "%s:%u: failed: %s\n", at.file_name(), at.line(), what);
  std::exit(1);
}

// Fails unless fn throws an Error of the kind.
inline void check_throws(ErrorKind kind, const std::function<void()>& fn,
                         std::source_location at = std::source_location::current()) {
  try {
    fn();
  } catch (const Error& error) {
    check(error.kind() == kind, error.what(), at);
    return;
  }
  check(false, "nothing was thrown", at);
}

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "nspjax-XXXXXX").string();
    check(::mkdtemp(name.data()) != nullptr, "mkdtemp");
    path_ = name;
  }
  ~TemporaryDirectory() { std::filesystem::remove_all(path_); }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace nspjax::testing
