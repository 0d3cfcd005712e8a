// XRT comes with a plug-in of our own, so that nothing here needs it.
#include <dlfcn.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "device/card.h"

namespace nspjax {
namespace {

using OpenCard = void (*)(const CardSpec&, std::unique_ptr<Card>&);

constexpr const char* kPlugin = "libnspjax_xrt.so";
constexpr const char* kOpen = "nspjax_open_xrt_card";

// Beside the library that this is in.
std::string plugin_path() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<const void*>(&plugin_path), &info) == 0) return kPlugin;
  return std::filesystem::path(info.dli_fname).parent_path() / kPlugin;
}

// Never unloaded: XRT has threads and atexit handlers.
OpenCard load_plugin() {
  const std::string path = plugin_path();
  if (!has_xrt_plugin()) {
    fail(ErrorKind::kAccelerator, "this nspjax cannot use cards: it was built without XRT, and ",
         path, " is not there; install XRT with its headers (Debian: apt install libxrt-dev) and ",
         "then nspjax again");
  }
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  void* open = library ? ::dlsym(library, kOpen) : nullptr;
  if (!open) {
    fail(ErrorKind::kAccelerator, "XRT cannot be loaded: ", ::dlerror(),
         "; install the XRT that nspjax was built with (Debian: apt install libxrt1), or source ",
         "its setup.sh");
  }
  return reinterpret_cast<OpenCard>(open);
}

}  // namespace

bool has_xrt_plugin() { return ::access(plugin_path().c_str(), F_OK) == 0; }

std::unique_ptr<Card> open_xrt_card(const CardSpec& spec) {
  static const OpenCard open = load_plugin();  // tried again after an error
  std::unique_ptr<Card> card;
  open(spec, card);
  return card;
}

}  // namespace nspjax
