// From a compute unit's registers to a call of the kernel: what Vitis HLS makes of the s_axilite
// interface. Arguments begin at 0x10, each one is followed by four bytes of its own; pointers are
// addresses in the card's memory.
//
// A kernel's shared object exports, for kernel K, `extern "C" void K_on_registers(const
// Registers&)`, which returns call(&K, registers).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace nspjax::xrt_emulator {

inline constexpr std::size_t kRegisterBytes = 4096;  // of one compute unit

struct Registers {
  std::array<std::uint8_t, kRegisterBytes> bytes;
  const void* memory;
  void* (*pointer)(const void* memory, std::uint64_t address);
};

namespace binding {

template <typename Argument>
constexpr std::size_t register_bytes() {
  return sizeof(Argument) <= 4 ? 4 : 8;
}

template <typename... Arguments>
constexpr auto offsets() {
  std::array<std::size_t, sizeof...(Arguments)> offset{};
  std::size_t next = 0x10;
  std::size_t i = 0;
  ((offset[i++] = next, next += register_bytes<Arguments>() + 4), ...);
  return offset;
}

template <typename Argument>
Argument fetch(const Registers& registers, std::size_t offset) {
  if constexpr (std::is_pointer_v<Argument>) {
    std::uint64_t address = 0;
    std::memcpy(&address, registers.bytes.data() + offset, sizeof address);
    return static_cast<Argument>(registers.pointer(registers.memory, address));
  } else {
    Argument value{};
    std::memcpy(&value, registers.bytes.data() + offset, sizeof value);
    return value;
  }
}

}  // namespace binding

template <typename... Arguments>
void call(void (*kernel)(Arguments...), const Registers& registers) {
  [&]<std::size_t... I>(std::index_sequence<I...>) {
    constexpr auto offset = binding::offsets<Arguments...>();
    kernel(binding::fetch<Arguments>(registers, offset[I])...);
  }(std::index_sequence_for<Arguments...>{});
}

}  // namespace nspjax::xrt_emulator
