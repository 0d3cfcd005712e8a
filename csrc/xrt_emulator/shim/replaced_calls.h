// What XRT's emulation shim calls, replaced.
#pragma once

#include "xrt_emulator/shim/loaded_library.h"

namespace nspjax::xrt_emulator {

// Functions of libc: see replaced_imports.cc for each one's reason. Throws std::runtime_error
// where the shim is not the one that we know.
void replace_imports(const LoadedLibrary& shim);

// Virtual functions of its system and its device: opening, buffers, xclbins, closing.
void replace_device(const LoadedLibrary& shim);

}  // namespace nspjax::xrt_emulator
