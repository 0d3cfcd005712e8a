#include "xrt_emulator/shim/loaded_library.h"

#include <dlfcn.h>
#include <elf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <set>
#include <span>
#include <stdexcept>
#include <system_error>

namespace nspjax::xrt_emulator {
namespace {

// The loader made the tables read-only when it had filled them in.
void overwrite(void** slot, void* value) {
  const auto page_bytes = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  void* const page =
      reinterpret_cast<void*>(reinterpret_cast<std::uintptr_t>(slot) / page_bytes * page_bytes);
  if (::mprotect(page, page_bytes, PROT_READ | PROT_WRITE) != 0) {
    throw std::system_error(errno, std::generic_category(), "making a page writable");
  }
  *slot = value;
  ::mprotect(page, page_bytes, PROT_READ);
}

struct Dynamic {
  const ElfW(Sym) * symbols = nullptr;
  const char* names = nullptr;
  std::span<const ElfW(Rela)> jumps;
  std::span<const ElfW(Rela)> data;
};

Dynamic dynamic_of(const link_map* map) {
  Dynamic found;
  const ElfW(Rela)* jumps = nullptr;
  const ElfW(Rela)* data = nullptr;
  std::size_t jump_bytes = 0;
  std::size_t data_bytes = 0;
  for (const ElfW(Dyn)* entry = map->l_ld; entry->d_tag != DT_NULL; ++entry) {
    const ElfW(Addr) address = entry->d_un.d_ptr;
    switch (entry->d_tag) {
      case DT_SYMTAB:
        found.symbols = reinterpret_cast<const ElfW(Sym)*>(address);
        break;
      case DT_STRTAB:
        found.names = reinterpret_cast<const char*>(address);
        break;
      case DT_JMPREL:
        jumps = reinterpret_cast<const ElfW(Rela)*>(address);
        break;
      case DT_PLTRELSZ:
        jump_bytes = entry->d_un.d_val;
        break;
      case DT_RELA:
        data = reinterpret_cast<const ElfW(Rela)*>(address);
        break;
      case DT_RELASZ:
        data_bytes = entry->d_un.d_val;
        break;
      default:
        break;
    }
  }
  found.jumps = {jumps, jump_bytes / sizeof(ElfW(Rela))};
  found.data = {data, data_bytes / sizeof(ElfW(Rela))};
  return found;
}

}  // namespace

LoadedLibrary::LoadedLibrary(const std::string& path)
    : path_(path), handle_(::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL)), map_(nullptr) {
  if (!handle_ || ::dlinfo(handle_, RTLD_DI_LINKMAP, &map_) != 0) {
    throw std::runtime_error(::dlerror());
  }
}

CodeRange LoadedLibrary::range(const std::string& symbol) const {
  const void* const found = ::dlsym(handle_, symbol.c_str());
  Dl_info info{};
  const ElfW(Sym)* entry = nullptr;
  if (!found ||
      ::dladdr1(found, &info, reinterpret_cast<void**>(const_cast<ElfW(Sym)**>(&entry)),
                RTLD_DL_SYMENT) == 0 ||
      !entry) {
    throw std::runtime_error(path_ + " has no " + symbol);
  }
  const auto begin = reinterpret_cast<std::uintptr_t>(found);
  return {begin, begin + entry->st_size};
}

void LoadedLibrary::replace_imports(const std::map<std::string, void*>& replacements) const {
  const Dynamic dynamic = dynamic_of(map_);
  std::set<std::string> done;
  for (const auto& table : {dynamic.jumps, dynamic.data}) {
    for (const ElfW(Rela) & entry : table) {
      const auto type = ELF64_R_TYPE(entry.r_info);
      if (type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) continue;
      const char* name = dynamic.names + dynamic.symbols[ELF64_R_SYM(entry.r_info)].st_name;
      const auto found = replacements.find(name);
      if (found == replacements.end()) continue;
      overwrite(reinterpret_cast<void**>(map_->l_addr + entry.r_offset), found->second);
      done.insert(name);
    }
  }
  for (const auto& [name, replacement] : replacements) {
    if (!done.contains(name)) throw std::runtime_error(path_ + " does not call " + name);
  }
}

void* LoadedLibrary::replace_virtual(const std::string& vtable, const std::string& function,
                                     void* replacement) const {
  const CodeRange table = range(vtable);
  const CodeRange original = range(function);
  for (std::uintptr_t at = table.begin; at < table.end; at += sizeof(void*)) {
    auto** const slot = reinterpret_cast<void**>(at);
    if (reinterpret_cast<std::uintptr_t>(*slot) != original.begin) continue;
    void* const before = *slot;
    overwrite(slot, replacement);
    return before;
  }
  throw std::runtime_error(vtable + " of " + path_ + " has no " + function);
}

}  // namespace nspjax::xrt_emulator
