// The connections of this process, and what a thread is doing with them.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "xrt_emulator/shim/connection.h"
#include "xrt_emulator/shim/device_process.h"

namespace nspjax::xrt_emulator {

// The shim hands a new card from function to function through the environment and through fork;
// with several threads that opens the wrong one, so it goes through here.
struct ThreadState {
  std::string card_name = "device0_0_0";          // EMULATION_SOCKETID
  std::optional<DeviceProcess> started;           // not yet accepted
  std::shared_ptr<Connection> last;               // that was written to
  BufferKind allocating = BufferKind::kOrdinary;  // what the next allocation is for
  int idle_polls = 0;                             // of the shim's scheduler, with nothing to do
};
ThreadState& this_thread();

// By the descriptor that the shim has.
void add_connection(int socket, pid_t process);
std::shared_ptr<Connection> connection_at(int socket);
void drop_connection(int socket);

// By XRT's device object, once that has used a connection.
void remember_connection(const void* device, std::shared_ptr<Connection> connection);
std::shared_ptr<Connection> connection_of(const void* device);

}  // namespace nspjax::xrt_emulator
