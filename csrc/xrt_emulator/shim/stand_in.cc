#include "xrt_emulator/shim/stand_in.h"

#include <string_view>

#include "xrt_emulator/message.h"

namespace nspjax::xrt_emulator {

std::string stand_in_reply(Api api) {
  switch (api) {
    case Api::kReadControl:
    case Api::kReadRegister: {
      const std::uint32_t done = kDone | kIdle;
      const std::string_view bytes{reinterpret_cast<const char*>(&done), sizeof done};
      return Body().number(1, true).bytes(2, bytes).take();
    }
    case Api::kToHost:
      return Body().number(1, 0).bytes(2, {}).take();
    case Api::kLoad:
    case Api::kCopyBuffer:
    case Api::kImportBuffer:
    case Api::kCopyFromExported:
      return Body().number(1, false).take();
    default:
      return Body().number(1, true).take();
  }
}

}  // namespace nspjax::xrt_emulator
