// The card's DDR bank: a reserved range of this process's addresses, with pages where buffers are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "xrt_emulator/protocol.h"

namespace nspjax::xrt_emulator {

class Memory {
 public:
  static constexpr std::uint64_t kBytes = std::uint64_t{4} << 30;  // a SmartSSD has 4 GB

  struct Buffer {
    std::uint64_t address;
    std::uint64_t size_bytes;
    BufferKind kind;
    int file;  // whose pages host and card share; -1: pages of the card alone
    bool shared() const { return file >= 0; }
  };

  Memory();
  ~Memory();
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  // False where that range is not free, or the system refuses. Memory of the card alone begins
  // with garbage, as DRAM does: a sync that was forgotten is seen.
  bool allocate(std::uint64_t address, std::uint64_t size_bytes, BufferKind kind, bool shared);
  void free(std::uint64_t address);

  std::optional<Buffer> buffer_at(std::uint64_t address) const;
  // The bytes at an address; empty where they are not all in one buffer.
  std::span<std::byte> bytes(std::uint64_t address, std::uint64_t size_bytes) const;
  // What a kernel's pointer argument becomes. An access outside of buffers ends the process.
  void* pointer(std::uint64_t address) const;
  // From now on the process ends at the first write.
  void protect();

 private:
  std::byte* base_;
  mutable std::mutex mutex_;
  std::map<std::uint64_t, Buffer> buffers_;
};

// "p2p": as the log has it.
const char* name_of(BufferKind kind);

// Where another process finds the pages of a shared buffer.
std::string path_of(const Memory::Buffer& buffer);

}  // namespace nspjax::xrt_emulator
