#include "device/superblock.h"

#include <unistd.h>

#include <array>
#include <chrono>
#include <optional>
#include <random>

#include "base/align.h"
#include "base/crc32c.h"

namespace nspjax {
namespace {

constexpr std::array<char, 8> kMagic = {'N', 'S', 'P', 'J', 'A', 'X', 'K', 'V'};
constexpr uint32_t kVersion = 1;

struct Superblock {  // little-endian, as written by the machine that reads it again
  std::array<char, 8> magic;
  uint32_t version;
  uint32_t page_bytes;
  int64_t created_unix_ns;
  int64_t owner_pid;
  std::array<uint32_t, 4> uuid;
  std::array<std::byte, kPageBytes - 52> unused;
  uint32_t crc;  // of all that is before it
};
static_assert(sizeof(Superblock) == kPageBytes);

uint32_t checksum(const Superblock& block) {
  return crc32c(std::as_bytes(std::span(&block, 1)).first(offsetof(Superblock, crc)));
}

// Nothing where the file is shorter.
std::optional<Superblock> read_superblock(const File& file) {
  Superblock block{};
  if (file.read_at(std::as_writable_bytes(std::span(&block, 1)), 0) != kPageBytes) return {};
  return block;
}

}  // namespace

void check_superblock(const File& file) {
  if (file.size_bytes() == 0) return;  // made, and not written before its process ended
  const std::optional<Superblock> block = read_superblock(file);
  const auto damaged = [&](const std::string& why) {
    fail(ErrorKind::kStoreDamaged, file.path(), " ", why,
         "; it was left as it is. If nothing in it is wanted, remove it; else give another ",
         "directory");
  };
  if (!block || block->magic != kMagic) damaged("is not an nspjax store");
  if (block->crc != checksum(*block)) damaged("is damaged: its superblock's checksum is wrong");
  if (block->version != kVersion || block->page_bytes != kPageBytes) {
    damaged(concat("is an nspjax store of format ", block->version, ", this is format ", kVersion));
  }
}

void write_superblock(const File& file) {
  Superblock block{};
  block.magic = kMagic;
  block.version = kVersion;
  block.page_bytes = kPageBytes;
  block.created_unix_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(
                              std::chrono::system_clock::now().time_since_epoch())
                              .count();
  block.owner_pid = ::getpid();
  std::random_device random;
  for (uint32_t& word : block.uuid) word = random();
  block.crc = checksum(block);
  // In this order: a process that ends in between, or finds the disk full, leaves an empty file or
  // a sound superblock, and not a page of zeros that every later open refuses.
  file.write_at(std::as_bytes(std::span(&block, 1)), 0);
  file.resize(kPageBytes);  // what a dead process left is dropped
  file.sync();
}

}  // namespace nspjax
