#include "device/memory_device.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>

namespace nspjax {
namespace {

// MemAvailable of /proc/meminfo; without one, all of the physical memory.
int64_t free_memory_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  for (std::string name; meminfo >> name;) {
    int64_t kib = 0;
    if (name == "MemAvailable:" && meminfo >> kib) return kib * 1024;
    meminfo.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGESIZE);
}

// Bytes of the mapping that are in memory.
int64_t resident_bytes(const MappedRegion& region) {
  const int64_t page = ::sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> present(1 << 16);
  int64_t pages = 0;
  for (int64_t begin = 0; begin < region.size_bytes(); begin += std::ssize(present) * page) {
    const int64_t bytes = std::min(std::ssize(present) * page, region.size_bytes() - begin);
    if (::mincore(region.data() + begin, static_cast<size_t>(bytes), present.data()) != 0) continue;
    pages += std::count_if(present.begin(), present.begin() + ceil_div(bytes, page),
                           [](unsigned char flags) { return flags & 1; });
  }
  return pages * page;
}

}  // namespace

DeviceInfo MemoryDevice::info() const {
  return {"memory:", "memory", "", false, "", false, extents_.reserved_bytes(), available_bytes()};
}

int64_t MemoryDevice::available_bytes() const {
  int64_t promised = 0;
  for (const auto& [offset, region] : regions_) {
    promised += region.size_bytes() - resident_bytes(region);
  }
  return std::max<int64_t>(0, free_memory_bytes() - promised);
}

Extent MemoryDevice::reserve(int64_t bytes) {
  MappedRegion region(bytes);
  const Extent extent = extents_.reserve(bytes);
  regions_.emplace(extent.offset, std::move(region));
  return extent;
}

void MemoryDevice::release(const Extent& extent) {
  regions_.erase(extent.offset);
  extents_.release(extent);
}

std::byte* MemoryDevice::at(int64_t offset) const {
  const auto& [begin, region] = *std::prev(regions_.upper_bound(offset));
  return region.data() + (offset - begin);
}

void MemoryDevice::write(std::span<const TileWrite> writes, ThreadPool& workers) {
  TaskGroup packing(workers);
  for (const TileWrite& write : writes) {
    packing.run([&write, to = at(write.range.offset)] { write.pack(to); });
  }
  packing.wait();
  for (const TileWrite& write : writes) {
    stats_.bytes_written += write.range.bytes;
    ++stats_.n_writes;
  }
}

void MemoryDevice::scan(std::span<const TileRange> ranges, std::span<const TileRange>,
                        ScanVisitor& visitor) {
  for (size_t i = 0; i < ranges.size(); ++i) {
    stats_.bytes_read += ranges[i].bytes;
    ++stats_.n_reads;
    visitor.ready(i, std::shared_ptr<const std::byte>(at(ranges[i].offset), [](auto*) {}));
  }
}

}  // namespace nspjax
