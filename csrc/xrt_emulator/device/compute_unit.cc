#include "xrt_emulator/device/compute_unit.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>

namespace nspjax::xrt_emulator {
namespace {

constexpr std::chrono::microseconds kPoll{100};

void* pointer_into(const void* memory, std::uint64_t address) {
  return static_cast<const Memory*>(memory)->pointer(address);
}

}  // namespace

ComputeUnit::ComputeUnit(std::string name, KernelFunction kernel,
                         std::vector<KernelArgument> arguments, Card card)
    : name_(std::move(name)),
      kernel_(kernel),
      arguments_(std::move(arguments)),
      card_(std::move(card)),
      registers_{.bytes = {}, .memory = &card_.memory, .pointer = pointer_into},
      thread_([this](const std::stop_token& stop) { work(stop); }) {}

void ComputeUnit::write(std::uint64_t offset, std::span<const std::uint8_t> bytes) {
  const std::lock_guard lock(mutex_);
  if (offset >= kRegisterBytes) return;
  const std::size_t n = std::min<std::size_t>(bytes.size(), kRegisterBytes - offset);
  std::copy_n(bytes.begin(), n, registers_.bytes.begin() + static_cast<std::ptrdiff_t>(offset));
  if (offset != 0 || n < 4 || !(registers_.bytes[0] & kStart) || (control_ & kStart)) return;
  fault_ = card_.faults.begin_run();
  if (fault_ == RunFault::kDie) {
    card_.log.write("exit", Json().text("reason", "fault die"));
    ::raise(SIGKILL);
  }
  control_ = kStart;
  started_ = true;
  changed_.notify_all();
}

std::uint32_t ComputeUnit::read(std::uint64_t offset) {
  std::unique_lock lock(mutex_);
  if (offset == 0) {
    changed_.wait_for(lock, kPoll, [this] { return !(control_ & kStart); });
    return std::exchange(control_, control_ & ~kDone);
  }
  std::uint32_t value = 0;
  if (offset + sizeof value <= kRegisterBytes) {
    std::memcpy(&value, registers_.bytes.data() + offset, sizeof value);
  }
  return value;
}

bool ComputeUnit::busy() const {
  const std::lock_guard lock(mutex_);
  return control_ & kStart;
}

void ComputeUnit::work(const std::stop_token& stop) {
  for (;;) {
    Registers registers;
    RunFault fault;
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [this] { return started_; })) return;
      started_ = false;
      registers = registers_;
      fault = fault_;
    }
    run(registers, fault, stop);
    {
      const std::lock_guard lock(mutex_);
      control_ = kDone | kIdle;
    }
    changed_.notify_all();
  }
}

void ComputeUnit::run(const Registers& registers, RunFault fault, const std::stop_token& stop) {
  card_.log.write(
      "run_begin",
      Json().text("compute_unit", name_).object("arguments", arguments_json(registers)));
  if (fault == RunFault::kHang) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, stop, [] { return false; });
    return;
  }
  if (fault == RunFault::kDieInRun) card_.die_at_next_write();
  const auto begin = std::chrono::steady_clock::now();
  if (kernel_) kernel_(registers);
  const auto took = std::chrono::steady_clock::now() - begin;
  card_.log.write(
      "run_end",
      Json()
          .text("compute_unit", name_)
          .number("run_us",
                  static_cast<std::uint64_t>(
                      std::chrono::duration_cast<std::chrono::microseconds>(took).count())));
}

Json ComputeUnit::arguments_json(const Registers& registers) const {
  Json all;
  for (const KernelArgument& argument : arguments_) {
    if (argument.offset + 8 > kRegisterBytes) continue;
    std::uint64_t value = 0;
    std::memcpy(&value, registers.bytes.data() + argument.offset, argument.pointer ? 8 : 4);
    Json one;
    if (!argument.pointer) {
      all.number(argument.name, value);
      continue;
    }
    one.number("address", value);
    if (const auto buffer = card_.memory.buffer_at(value)) {
      one.number("buffer", buffer->address)
          .text("kind", name_of(buffer->kind))
          .boolean("shared", buffer->shared());
    }
    all.object(argument.name, one);
  }
  return all;
}

}  // namespace nspjax::xrt_emulator
