#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include "xrt_emulator/shim/connections.h"
#include "xrt_emulator/shim/replaced_calls.h"

namespace nspjax::xrt_emulator {
namespace {

// Buffer flags of XRT's xrt_mem.h, and the state of a command in its first word (ert.h).
constexpr unsigned kDeviceOnlyFlag = 1u << 28;
constexpr unsigned kHostOnlyFlag = 1u << 29;
constexpr unsigned kP2PFlag = 1u << 30;
constexpr unsigned kCommandFlag = 1u << 31;
constexpr std::uint32_t kCommandStateMask = 0xf;
constexpr std::uint32_t kCommandCompleted = 4;
constexpr std::uint32_t kCommandNew = 1;

constexpr std::chrono::seconds kAbandonLimit{1};

// The functions that were there. `device` is their `this`.
unsigned (*allocate)(void* device, std::size_t size_bytes, unsigned flags);
unsigned (*allocate_user)(void* device, void* memory, std::size_t size_bytes, unsigned flags);
void* (*map)(void* device, unsigned buffer, bool write);
void (*unmap)(void* device, unsigned buffer, void* memory);
void (*free_buffer)(void* device, unsigned buffer);
void (*load)(void* device, const void* xclbin);
void (*close_device)(void* device);
int (*wait)(const void* device, int timeout_ms);
std::shared_ptr<void> (*open)(const void* system, unsigned card);

// The shim keeps tables of all cards' buffers that no lock protects. Never destroyed: XRT closes
// cards from destructors of static objects.
std::recursive_mutex& one_at_a_time() {
  static auto& mutex = *new std::recursive_mutex;
  return mutex;
}

// Buffers in which XRT passes commands to the shim; under one_at_a_time.
std::set<unsigned>& command_buffers() {
  static auto& buffers = *new std::set<unsigned>;
  return buffers;
}

// How often each device was opened: the shim has one object for a card, and the first close would
// end it for all. Under one_at_a_time.
std::map<const void*, int>& openings() {
  static auto& the_openings = *new std::map<const void*, int>;
  return the_openings;
}

BufferKind kind_of(unsigned flags) {
  if (flags & kCommandFlag) return BufferKind::kCommand;
  if (flags & kP2PFlag) return BufferKind::kP2P;
  if (flags & kDeviceOnlyFlag) return BufferKind::kDeviceOnly;
  if (flags & kHostOnlyFlag) return BufferKind::kHostOnly;
  return BufferKind::kOrdinary;
}

bool p2p_is_refused() {
  const char* const faults = std::getenv("NSPJAX_XRT_EMULATOR_FAULTS");
  return faults && std::string_view(faults).find("no-p2p") != std::string_view::npos;
}

// The shim makes up a card where there is none of that number.
std::shared_ptr<void> open_replaced(const void* system, unsigned card) {
  const char* const cards = std::getenv("NSPJAX_XRT_EMULATOR_CARDS");
  if (cards && card >= std::strtoul(cards, nullptr, 10)) {
    throw std::runtime_error("No such device with index '" + std::to_string(card) + "'");
  }
  const std::lock_guard lock(one_at_a_time());
  std::shared_ptr<void> device = open(system, card);
  ++openings()[device.get()];
  return device;
}

unsigned allocate_replaced(void* device, std::size_t size_bytes, unsigned flags) {
  const std::lock_guard lock(one_at_a_time());
  const BufferKind kind = kind_of(flags);
  // nothing is what the shim refuses to allocate
  if (kind == BufferKind::kP2P && p2p_is_refused()) size_bytes = 0;
  this_thread().allocating = kind;
  const unsigned buffer = allocate(device, size_bytes, flags);
  if (kind == BufferKind::kCommand) command_buffers().insert(buffer);
  remember_connection(device, this_thread().last);
  return buffer;
}

unsigned allocate_user_replaced(void* device, void* memory, std::size_t size_bytes,
                                unsigned flags) {
  const std::lock_guard lock(one_at_a_time());
  this_thread().allocating = BufferKind::kUserMemory;
  const unsigned buffer = allocate_user(device, memory, size_bytes, flags);
  remember_connection(device, this_thread().last);
  return buffer;
}

void* map_replaced(void* device, unsigned buffer, bool write) {
  const std::lock_guard lock(one_at_a_time());
  return map(device, buffer, write);
}

template <typename Predicate>
void wait_until(Predicate&& predicate) {
  const auto deadline = std::chrono::steady_clock::now() + kAbandonLimit;
  while (!predicate() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::microseconds(100));
  }
}

// The host gives up a run that does not end. The shim's scheduler would go on with the command's
// memory, and with a lock that closing waits for: a card that is stood in for says that it is done.
void give_up_command(Connection& connection, const void* memory) {
  const auto ended = [word = static_cast<const volatile std::uint32_t*>(memory)] {
    const std::uint32_t state = *word & kCommandStateMask;
    return state >= kCommandCompleted || state < kCommandNew;
  };
  if (connection.runs() == 0 || ended()) return;
  connection.abandon();
  wait_until(ended);
}

void unmap_replaced(void* device, unsigned buffer, void* memory) {
  const std::lock_guard lock(one_at_a_time());
  const std::shared_ptr<Connection> connection = connection_of(device);
  if (connection && memory && command_buffers().contains(buffer)) {
    give_up_command(*connection, memory);
  }
  unmap(device, buffer, memory);
}

void free_replaced(void* device, unsigned buffer) {
  const std::lock_guard lock(one_at_a_time());
  command_buffers().erase(buffer);
  free_buffer(device, buffer);
}

void load_replaced(void* device, const void* xclbin) {
  const std::lock_guard lock(one_at_a_time());
  load(device, xclbin);
  remember_connection(device, this_thread().last);
}

void close_replaced(void* device) {
  const std::lock_guard lock(one_at_a_time());
  if (--openings()[device] > 0) return;
  openings().erase(device);
  if (const std::shared_ptr<Connection> connection = connection_of(device)) {
    if (connection->runs() > 0) connection->abandon();
    wait_until([&] { return connection->runs() == 0; });
  }
  close_device(device);
  remember_connection(device, nullptr);
}

// The shim's own returns at once, so that XRT spins.
int wait_replaced(const void* device, int timeout_ms) {
  ::usleep(50);
  return wait(device, timeout_ms);
}

template <typename Function>
void replace(const LoadedLibrary& shim, const std::string& type, const std::string& name,
             Function*& original, Function* replacement) {
  original = reinterpret_cast<Function*>(
      shim.replace_virtual("_ZTV" + type, name, reinterpret_cast<void*>(replacement)));
}

}  // namespace

void replace_device(const LoadedLibrary& shim) {
  const std::string system = "N8xrt_core5swemu6systemE";
  const std::string device = "N8xrt_core5swemu6deviceE";
  const std::string method = "_ZN8xrt_core4shimINS_11device_pcieEE";
  const std::string const_method = "_ZNK8xrt_core4shimINS_11device_pcieEE";
  replace(shim, system, "_ZNK8xrt_core5swemu6system17get_userpf_deviceEj", open, open_replaced);
  replace(shim, device, method + "8alloc_boEmj", allocate, allocate_replaced);
  replace(shim, device, method + "8alloc_boEPvmj", allocate_user, allocate_user_replaced);
  replace(shim, device, method + "6map_boEjb", map, map_replaced);
  replace(shim, device, method + "8unmap_boEjPv", unmap, unmap_replaced);
  replace(shim, device, method + "7free_boEj", free_buffer, free_replaced);
  replace(shim, device, method + "9load_axlfEPK4axlf", load, load_replaced);
  replace(shim, device, method + "12close_deviceEv", close_device, close_replaced);
  replace(shim, device, const_method + "9exec_waitEi", wait, wait_replaced);
}

}  // namespace nspjax::xrt_emulator
