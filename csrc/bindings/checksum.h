// Checksums of what Python holds.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>

namespace nspjax {

// CRC-32C of any object with a contiguous buffer: bytes, bytearray, memoryview, mmap, an array.
// Other Python threads run meanwhile.
uint32_t crc32c_of_buffer(const nanobind::object& bytes_like);

}  // namespace nspjax
