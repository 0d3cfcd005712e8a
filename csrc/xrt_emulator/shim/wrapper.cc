// libxrt_swemu.so.2 where XRT looks for it, $XILINX_XRT/lib: loads the system's library of that
// name, unchanged, and replaces some of what it calls.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <stdexcept>

#include "xrt_emulator/shim/replaced_calls.h"

namespace nspjax::xrt_emulator {
namespace {

__attribute__((constructor)) void load_shim() {
  try {
    const char* const path = std::getenv("NSPJAX_XRT_EMULATOR_SHIM");
    if (!path) throw std::runtime_error("NSPJAX_XRT_EMULATOR_SHIM is not set");
    const LoadedLibrary shim(path);
    replace_imports(shim);
    replace_device(shim);
  } catch (const std::exception& error) {
    // half replaced it would kill the process group when a card dies
    std::fprintf(stderr,
                 "nspjax: XRT's emulation shim cannot be used: %s (known is XRT 2.13, "
                 "202210.2.13.466 of Debian 12)\n",
                 error.what());
    ::_exit(1);
  }
}

}  // namespace
}  // namespace nspjax::xrt_emulator
