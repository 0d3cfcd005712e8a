#include "xrt_emulator/device/memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iterator>
#include <system_error>

namespace nspjax::xrt_emulator {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr int kGarbage = 0xa5;

std::uint64_t whole_pages(std::uint64_t size_bytes) {
  return (size_bytes + kPageBytes - 1) / kPageBytes * kPageBytes;
}

}  // namespace

Memory::Memory() {
  void* reserved =
      ::mmap(nullptr, kBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    throw std::system_error(errno, std::generic_category(), "reserving the card's memory");
  }
  base_ = static_cast<std::byte*>(reserved);
}

Memory::~Memory() {
  ::munmap(base_, kBytes);
  for (const auto& [address, buffer] : buffers_) {
    if (buffer.shared()) ::close(buffer.file);
  }
}

bool Memory::allocate(std::uint64_t address, std::uint64_t size_bytes, BufferKind kind,
                      bool shared) {
  const std::lock_guard lock(mutex_);
  const std::uint64_t bytes = whole_pages(size_bytes);
  if (bytes == 0 || address % kPageBytes != 0 || address > kBytes || bytes > kBytes - address) {
    return false;
  }
  const auto next = buffers_.lower_bound(address);
  if (next != buffers_.end() && next->first < address + bytes) return false;
  if (next != buffers_.begin()) {
    const Buffer& before = std::prev(next)->second;
    if (before.address + before.size_bytes > address) return false;
  }
  Buffer buffer{address, bytes, kind, -1};
  std::byte* const at = base_ + address;
  constexpr int kAccess = PROT_READ | PROT_WRITE;
  if (shared) {
    buffer.file = ::memfd_create("xrt-card-buffer", MFD_CLOEXEC);
    if (buffer.file < 0) return false;
    if (::ftruncate(buffer.file, static_cast<off_t>(bytes)) != 0 ||
        ::mmap(at, bytes, kAccess, MAP_SHARED | MAP_FIXED, buffer.file, 0) == MAP_FAILED) {
      ::close(buffer.file);
      return false;
    }
  } else {
    constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
    if (::mmap(at, bytes, kAccess, kPrivate, -1, 0) == MAP_FAILED) return false;
    std::memset(at, kGarbage, bytes);
  }
  buffers_.emplace(address, buffer);
  return true;
}

void Memory::free(std::uint64_t address) {
  const std::lock_guard lock(mutex_);
  const auto found = buffers_.find(address);
  if (found == buffers_.end()) return;
  const Buffer& buffer = found->second;
  constexpr int kReserved = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  ::mmap(base_ + address, buffer.size_bytes, PROT_NONE, kReserved, -1, 0);
  if (buffer.shared()) {
    // the shim keeps its descriptor until the card is closed: the pages must go before it does
    ::fallocate(buffer.file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                static_cast<off_t>(buffer.size_bytes));
    ::close(buffer.file);
  }
  buffers_.erase(found);
}

std::optional<Memory::Buffer> Memory::buffer_at(std::uint64_t address) const {
  const std::lock_guard lock(mutex_);
  auto after = buffers_.upper_bound(address);
  if (after == buffers_.begin()) return std::nullopt;
  const Buffer& buffer = std::prev(after)->second;
  if (address >= buffer.address + buffer.size_bytes) return std::nullopt;
  return buffer;
}

std::span<std::byte> Memory::bytes(std::uint64_t address, std::uint64_t size_bytes) const {
  const std::optional<Buffer> buffer = buffer_at(address);
  if (!buffer || size_bytes > buffer->address + buffer->size_bytes - address) return {};
  return {base_ + address, size_bytes};
}

void* Memory::pointer(std::uint64_t address) const {
  return address < kBytes ? base_ + address : nullptr;
}

void Memory::protect() { ::mprotect(base_, kBytes, PROT_READ); }

const char* name_of(BufferKind kind) {
  switch (kind) {
    case BufferKind::kP2P:
      return "p2p";
    case BufferKind::kDeviceOnly:
      return "device-only";
    case BufferKind::kHostOnly:
      return "host-only";
    case BufferKind::kCommand:
      return "command";
    case BufferKind::kUserMemory:
      return "user-memory";
    case BufferKind::kOrdinary:
      break;
  }
  return "ordinary";
}

std::string path_of(const Memory::Buffer& buffer) {
  return "/proc/" + std::to_string(::getpid()) + "/fd/" + std::to_string(buffer.file);
}

}  // namespace nspjax::xrt_emulator
