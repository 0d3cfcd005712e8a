#include "xrt_emulator/device/metadata.h"

#include <cstdlib>

namespace nspjax::xrt_emulator {
namespace {

// Our own writer made the XML: attributes are in double quotes and have no entities.
std::string attribute(std::string_view tag, const std::string& name) {
  const std::string key = " " + name + "=\"";
  const std::size_t at = tag.find(key);
  if (at == std::string_view::npos) return {};
  const std::size_t begin = at + key.size();
  return std::string(tag.substr(begin, tag.find('"', begin) - begin));
}

std::uint64_t number(std::string_view tag, const std::string& name) {
  return std::strtoull(attribute(tag, name).c_str(), nullptr, 0);
}

}  // namespace

std::vector<KernelMetadata> parse_kernels(std::string_view xml) {
  std::vector<KernelMetadata> kernels;
  for (std::size_t begin = xml.find('<'); begin != std::string_view::npos;) {
    const std::size_t next = xml.find('<', begin + 1);
    const std::string_view tag = xml.substr(begin, next - begin);
    if (tag.starts_with("<kernel ")) {
      kernels.push_back({attribute(tag, "name"), {}, {}});
    } else if (!kernels.empty() && tag.starts_with("<arg ")) {
      kernels.back().arguments.push_back({attribute(tag, "name"), number(tag, "offset"),
                                          attribute(tag, "addressQualifier") == "1"});
    } else if (!kernels.empty() && tag.starts_with("<instance ")) {
      kernels.back().compute_units.push_back({attribute(tag, "name"), 0});
    } else if (tag.starts_with("<addrRemap ") && !kernels.empty() &&
               !kernels.back().compute_units.empty()) {
      kernels.back().compute_units.back().base = number(tag, "base");
    }
    begin = next;
  }
  return kernels;
}

}  // namespace nspjax::xrt_emulator
