// Whether a drive and a card are one device: a SmartSSD has both behind a PCIe switch of its own.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace nspjax {

// Whether the directory's block device and the card at a PCI address ("0000:3d:00.0") are below the
// same switch; nothing where it cannot be told. sysfs: "/sys".
std::optional<bool> on_same_switch(const std::filesystem::path& sysfs, const std::string& directory,
                                   const std::string& card_address);

}  // namespace nspjax
