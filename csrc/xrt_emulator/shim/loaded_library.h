// Replaces what a loaded library calls: functions that it imports, virtual functions that it has.
#pragma once

#include <link.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace nspjax::xrt_emulator {

struct CodeRange {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  bool contains(const void* address) const {
    const auto at = reinterpret_cast<std::uintptr_t>(address);
    return at >= begin && at < end;
  }
};

class LoadedLibrary {
 public:
  // Loads it; throws std::runtime_error where it cannot be.
  explicit LoadedLibrary(const std::string& path);

  // Where a symbol lies. Throws std::runtime_error where the library has none of that name.
  CodeRange range(const std::string& symbol) const;

  // From now on calls of an imported function go to ours. Throws std::runtime_error where the
  // library does not import one of them: then it is not the version that we know.
  void replace_imports(const std::map<std::string, void*>& replacements) const;

  // The same for the slot of a function in a vtable; returns the function that was there.
  void* replace_virtual(const std::string& vtable, const std::string& function,
                        void* replacement) const;

 private:
  std::string path_;
  void* handle_;
  link_map* map_;
};

}  // namespace nspjax::xrt_emulator
