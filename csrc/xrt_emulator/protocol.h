// What XRT 2.13's emulation shim and a device process say to each other over a stream socket: a
// request, then its reply, one at a time. README.md has the table.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace nspjax::xrt_emulator {

enum class Api : std::uint32_t {
  kClose = 1,
  kLoad = 3,
  kAllocate = 4,
  kFree = 5,
  kToDevice = 6,
  kToHost = 7,
  kWriteControl = 9,
  kReadControl = 11,
  kSetEnvironment = 20,
  kCopyBuffer = 22,
  kImportBuffer = 27,
  kSetupInstance = 28,
  kCopyFromExported = 50,
  kWriteRegister = 51,
  kReadRegister = 52,
};

// Bits of a compute unit's control register.
inline constexpr std::uint32_t kStart = 1;  // written: begin; read: busy
inline constexpr std::uint32_t kDone = 2;   // since the last read
inline constexpr std::uint32_t kIdle = 4;

// What memory a buffer is. The shim's wrapper adds it to allocations as field kKindField: the shim
// itself tells its device process only whether host and card shall share pages.
enum class BufferKind : std::uint32_t {
  kOrdinary,
  kP2P,
  kDeviceOnly,
  kHostOnly,
  kCommand,     // of XRT itself
  kUserMemory,  // has no pages that could be shared
};
inline constexpr std::uint32_t kKindField = 1000;

// The descriptor of a device process's end of the socket.
inline constexpr int kSocket = 3;

struct RequestHeader {
  static constexpr std::size_t kBytes = 14;  // 09, fixed64 body_bytes, 15, fixed32 api
  std::uint64_t body_bytes;
  Api api;

  static RequestHeader read(const std::uint8_t* p) {
    RequestHeader header{};
    std::memcpy(&header.body_bytes, p + 1, 8);
    std::memcpy(&header.api, p + 10, 4);
    return header;
  }
  void write(std::uint8_t* p) const {
    p[0] = 0x09;
    std::memcpy(p + 1, &body_bytes, 8);
    p[9] = 0x15;
    std::memcpy(p + 10, &api, 4);
  }
};

struct ReplyHeader {
  static constexpr std::size_t kBytes = 9;  // 09, fixed64 body_bytes
  std::uint64_t body_bytes;

  static ReplyHeader read(const std::uint8_t* p) {
    ReplyHeader header{};
    std::memcpy(&header.body_bytes, p + 1, 8);
    return header;
  }
  void write(std::uint8_t* p) const {
    p[0] = 0x09;
    std::memcpy(p + 1, &body_bytes, 8);
  }
};

}  // namespace nspjax::xrt_emulator
