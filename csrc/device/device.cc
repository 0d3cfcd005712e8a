#include "device/device.h"

#include "device/file_device.h"
#include "device/host_attention.h"
#include "device/memory_device.h"
#include "io/fault.h"

namespace nspjax {

void Device::attend(const AttendCall& call, int64_t index, ThreadPool& workers) {
  attend_on_host(*this, call, index, workers);
}

std::optional<std::string> directory_of(const std::string& spec) {
  constexpr std::string_view kFile = "file:";
  if (spec == "memory:") return std::nullopt;
  const std::string path = spec.starts_with(kFile) ? spec.substr(kFile.size()) : spec;
  if (path.empty()) {
    fail(ErrorKind::kStorePath, "device \"", spec, "\" has no path: write memory:, a directory, ",
         "or file:DIRECTORY");
  }
  return path;
}

std::unique_ptr<Device> open_device(const std::string& spec, const std::string& file_name,
                                    const HostBudget& budget, std::string_view io,
                                    std::string_view fault, std::vector<std::string>& warnings) {
  const std::optional<std::string> path = directory_of(spec);
  if (!path) return std::make_unique<MemoryDevice>();
  auto queue = with_fault(make_io_queue(io, static_cast<int>(2 * budget.slots)), fault);
  return std::make_unique<FileDevice>(spec, *path, file_name, budget, std::move(queue), warnings);
}

}  // namespace nspjax
