// One emulated card: answers the shim's requests.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "xrt_emulator/device/compute_unit.h"
#include "xrt_emulator/device/event_log.h"
#include "xrt_emulator/device/faults.h"
#include "xrt_emulator/device/memory.h"
#include "xrt_emulator/message.h"
#include "xrt_emulator/protocol.h"

namespace nspjax::xrt_emulator {

class Card {
 public:
  // strict_sync: ordinary buffers have a copy in the host and one here. die_at_next_write is called
  // at the start of a run that shall not end.
  Card(const EventLog& log, Faults& faults, bool strict_sync,
       std::function<void()> die_at_next_write);

  // The body of the reply. Throws std::invalid_argument for bytes that are no message.
  std::string answer(Api api, std::string_view request);
  // The host closed the card: after the reply the process ends.
  bool closed() const { return closed_; }
  Memory& memory() { return memory_; }

 private:
  static constexpr std::uint64_t kUnitRange = 0x10000;  // of addresses, one compute unit's

  bool load(const std::string& xml_path, const std::string& object_path);
  std::string allocate(const Message& request);
  std::string to_device(const Message& request);
  std::string to_host(const Message& request);
  void write_register(std::uint64_t address, std::string_view bytes);
  std::string read_register(std::uint64_t address);
  ComputeUnit* unit_at(std::uint64_t address);

  const EventLog& log_;
  Faults& faults_;
  bool strict_sync_;
  std::function<void()> die_at_next_write_;
  bool closed_ = false;
  Memory memory_;
  std::map<std::uint64_t, std::unique_ptr<ComputeUnit>> units_;  // by base; run in memory_
};

}  // namespace nspjax::xrt_emulator
