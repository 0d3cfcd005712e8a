#include "device/pci_topology.h"

#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <vector>

namespace nspjax {
namespace {

namespace fs = std::filesystem;

// "0000:3c:00.0"
bool is_pci_address(const std::string& name) {
  return name.size() == 12 && name[4] == ':' && name[7] == ':' && name[10] == '.';
}

// The functions from the root port down to the device, as its path in /sys/devices has them.
std::vector<std::string> pci_path(const fs::path& link) {
  std::error_code error;
  const fs::path real = fs::canonical(link, error);
  std::vector<std::string> functions;
  if (error) return functions;
  for (const fs::path& part : real) {
    if (is_pci_address(part)) functions.push_back(part);
  }
  return functions;
}

// root port / the switch's upstream port / a downstream port of it / the function
constexpr size_t kBehindSwitch = 4;

}  // namespace

std::optional<bool> on_same_switch(const fs::path& sysfs, const std::string& directory,
                                   const std::string& card_address) {
  struct stat info{};
  if (::stat(directory.c_str(), &info) != 0) return std::nullopt;
  const std::string device =
      std::to_string(major(info.st_dev)) + ":" + std::to_string(minor(info.st_dev));
  const auto drive = pci_path(sysfs / "dev" / "block" / device);
  const auto card = pci_path(sysfs / "bus" / "pci" / "devices" / card_address);
  if (drive.empty() || card.empty()) return std::nullopt;
  if (drive.size() < kBehindSwitch || card.size() < kBehindSwitch) return false;
  return drive[drive.size() - 3] == card[card.size() - 3];
}

}  // namespace nspjax
