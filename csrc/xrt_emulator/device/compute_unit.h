// One compute unit: a register file, and a thread that runs the kernel when it is started.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>

#include "xrt_emulator/device/event_log.h"
#include "xrt_emulator/device/faults.h"
#include "xrt_emulator/device/memory.h"
#include "xrt_emulator/device/metadata.h"
#include "xrt_emulator/kernel/binding.h"

namespace nspjax::xrt_emulator {

using KernelFunction = void (*)(const Registers&);

class ComputeUnit {
 public:
  // What a unit needs of its card; outlives it.
  struct Card {
    const Memory& memory;
    const EventLog& log;
    Faults& faults;
    // ends the process when the kernel first writes
    std::function<void()> die_at_next_write;
  };

  ComputeUnit(std::string name, KernelFunction kernel, std::vector<KernelArgument> arguments,
              Card card);
  // Waits for the run, if there is one.
  ~ComputeUnit() = default;
  ComputeUnit(const ComputeUnit&) = delete;
  ComputeUnit& operator=(const ComputeUnit&) = delete;

  // Registers beyond the last are ignored, as on a bus. kStart at offset 0 begins a run.
  void write(std::uint64_t offset, std::span<const std::uint8_t> bytes);
  // Of the control register: kStart while busy, kDone | kIdle once, kIdle after. A busy unit keeps
  // its asker for up to a poll's time, so that polling costs little.
  std::uint32_t read(std::uint64_t offset);
  bool busy() const;

 private:
  void work(const std::stop_token& stop);
  void run(const Registers& registers, RunFault fault, const std::stop_token& stop);
  Json arguments_json(const Registers& registers) const;

  std::string name_;
  KernelFunction kernel_;
  std::vector<KernelArgument> arguments_;
  Card card_;

  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  Registers registers_{};
  std::uint32_t control_ = kIdle;
  RunFault fault_ = RunFault::kNone;
  bool started_ = false;
  std::jthread thread_;  // last: stopped and joined before the rest goes
};

}  // namespace nspjax::xrt_emulator
