#include "xrt_emulator/device/faults.h"

#include <charconv>
#include <stdexcept>
#include <string>

namespace nspjax::xrt_emulator {
namespace {

std::string_view cut(std::string_view& rest, char separator) {
  const std::size_t end = rest.find(separator);
  const std::string_view head = rest.substr(0, end);
  rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
  return head;
}

std::uint64_t value_of(std::string_view option) {
  const std::size_t equals = option.find('=');
  std::uint64_t value = 0;
  const char* const end = option.data() + option.size();
  if (equals == std::string_view::npos ||
      std::from_chars(option.data() + equals + 1, end, value).ptr != end) {
    throw std::invalid_argument("fault option " + std::string(option));
  }
  return value;
}

RunFault run_fault(std::string_view name) {
  if (name == "die") return RunFault::kDie;
  if (name == "die-in-run") return RunFault::kDieInRun;
  if (name == "hang") return RunFault::kHang;
  return RunFault::kNone;
}

}  // namespace

Faults::Faults(std::string_view text, int card) {
  while (!text.empty()) {
    std::string_view spec = cut(text, ',');
    Planned planned{run_fault(cut(spec, ':')), 1};
    bool here = planned.fault != RunFault::kNone;
    while (here && !spec.empty()) {
      const std::string_view option = cut(spec, ':');
      if (option.starts_with("card=")) {
        here = value_of(option) == static_cast<std::uint64_t>(card);
      } else if (option.starts_with("after=")) {
        planned.run = value_of(option);
      } else {
        throw std::invalid_argument("fault option " + std::string(option));
      }
    }
    if (here) planned_.push_back(planned);
  }
}

RunFault Faults::begin_run() {
  const std::uint64_t run = ++runs_;
  for (const Planned& planned : planned_) {
    if (planned.run == run) return planned.fault;
  }
  return RunFault::kNone;
}

}  // namespace nspjax::xrt_emulator
