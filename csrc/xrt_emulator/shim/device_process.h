// Starts and ends device processes.
#pragma once

#include <sys/types.h>

#include <string>

namespace nspjax::xrt_emulator {

struct DeviceProcess {
  int socket;     // to it; closed by its owner
  pid_t process;  // -1: it could not be started, and stderr says why
};

// Starts the program beside this library, without a fork of the host: hosts are large and have
// threads. Throws std::system_error where there is no socket.
DeviceProcess start_device_process(const std::string& card);

// Waits for it, and kills it if it takes longer than it may. Of no other child is anything taken.
void end_device_process(pid_t process);

}  // namespace nspjax::xrt_emulator
