#include "device/device.h"

#include "device/card_device.h"
#include "device/card_spec.h"
#include "device/file_device.h"
#include "device/host_attention.h"
#include "device/memory_device.h"
#include "io/fault.h"

namespace nspjax {

DeviceStats TileDevice::stats() const {
  constexpr auto kFrom = device_counters<std::atomic<int64_t>>();
  constexpr auto kTo = device_counters();
  DeviceStats stats;
  for (size_t i = 0; i < kTo.size(); ++i) stats.*kTo[i].field = (stats_.*kFrom[i].field).load();
  return stats;
}

void TileDevice::attend(const AttendCall& call, int64_t index, ThreadPool& workers) {
  attend_on_host(*this, call, index, workers);
}

std::optional<std::string> directory_of(const std::string& spec) {
  constexpr std::string_view kFile = "file:";
  if (spec == "memory:") return std::nullopt;
  if (names_cards(spec)) return parse_card(spec).path;
  const std::string path = spec.starts_with(kFile) ? spec.substr(kFile.size()) : spec;
  if (path.empty()) {
    fail(ErrorKind::kStorePath, "device \"", spec, "\" has no path: write memory:, a directory, ",
         "or file:DIRECTORY");
  }
  return path;
}

std::vector<std::unique_ptr<Device>> open_devices(std::span<const std::string> specs,
                                                  const std::string& file_name,
                                                  const HostBudget& budget, std::string_view io,
                                                  std::string_view fault,
                                                  std::vector<std::string>& warnings) {
  // XRT's emulation loads no kernel once buffers of another card are mapped: all cards come first.
  std::vector<std::shared_ptr<Card>> cards;
  for (const std::string& spec : specs) {
    cards.push_back(names_cards(spec) ? open_xrt_card(parse_card(spec)) : nullptr);
  }
  std::vector<std::unique_ptr<Device>> devices;
  for (size_t d = 0; d < specs.size(); ++d) {
    const std::optional<std::string> path = directory_of(specs[d]);
    if (!path) {
      devices.push_back(std::make_unique<MemoryDevice>());
      continue;
    }
    auto queue = with_fault(make_io_queue(io, static_cast<int>(2 * budget.slots)), fault);
    if (cards[d]) {
      devices.push_back(std::make_unique<CardDevice>(parse_card(specs[d]), cards[d], file_name,
                                                     budget, std::move(queue), warnings));
    } else {
      devices.push_back(std::make_unique<FileDevice>(specs[d], *path, file_name, budget,
                                                     std::move(queue), warnings));
    }
  }
  return devices;
}

}  // namespace nspjax
