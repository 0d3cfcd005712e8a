// What an xclbin's XML says about its kernels.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nspjax::xrt_emulator {

struct KernelArgument {
  std::string name;
  std::uint64_t offset;  // in the registers
  bool pointer;
};

struct ComputeUnitPlace {
  std::string name;
  std::uint64_t base;  // of its registers
};

struct KernelMetadata {
  std::string name;
  std::vector<KernelArgument> arguments;
  std::vector<ComputeUnitPlace> compute_units;
};

std::vector<KernelMetadata> parse_kernels(std::string_view xml);

}  // namespace nspjax::xrt_emulator
