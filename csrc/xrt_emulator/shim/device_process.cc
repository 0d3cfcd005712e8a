#include "xrt_emulator/shim/device_process.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>

#include "xrt_emulator/protocol.h"

namespace nspjax::xrt_emulator {
namespace {

constexpr char kProgram[] = "nspjax_xrt_card";
constexpr std::chrono::seconds kEndLimit{2};

// The run directory has a link to this library; the program is beside the library itself.
std::string program_path() {
  Dl_info info{};
  ::dladdr(reinterpret_cast<const void*>(&start_device_process), &info);
  return std::filesystem::canonical(info.dli_fname).parent_path() / kProgram;
}

class SpawnSettings {
 public:
  explicit SpawnSettings(int socket) {
    posix_spawn_file_actions_init(&actions_);
    posix_spawn_file_actions_adddup2(&actions_, socket, kSocket);
    posix_spawnattr_init(&attributes_);
    // a group of its own: Ctrl-C is for the host, which then closes its cards
    posix_spawnattr_setpgroup(&attributes_, 0);
    sigset_t none;
    sigset_t all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes_, &none);
    posix_spawnattr_setsigdefault(&attributes_, &all);
    posix_spawnattr_setflags(
        &attributes_, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  ~SpawnSettings() {
    posix_spawnattr_destroy(&attributes_);
    posix_spawn_file_actions_destroy(&actions_);
  }
  SpawnSettings(const SpawnSettings&) = delete;
  SpawnSettings& operator=(const SpawnSettings&) = delete;

  int spawn(const std::string& program, char* const* arguments, pid_t& process) const {
    return ::posix_spawn(&process, program.c_str(), &actions_, &attributes_, arguments, environ);
  }

 private:
  posix_spawn_file_actions_t actions_;
  posix_spawnattr_t attributes_;
};

}  // namespace

DeviceProcess start_device_process(const std::string& card) {
  std::array<int, 2> ends;
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()) != 0) {
    throw std::system_error(errno, std::generic_category(), "a socket for an emulated card");
  }
  const std::string program = program_path();
  std::string name = "nspjax-xrt-card";
  std::string number = card;
  const char* const directory_setting = std::getenv("NSPJAX_XRT_EMULATOR_RUN");
  std::string directory = directory_setting ? directory_setting : "-";
  const std::array<char*, 4> arguments{name.data(), number.data(), directory.data(), nullptr};
  DeviceProcess started{ends[0], -1};
  const int error = SpawnSettings(ends[1]).spawn(program, arguments.data(), started.process);
  ::close(ends[1]);
  if (error != 0) {
    started.process = -1;
    std::fprintf(stderr, "nspjax emulated card: cannot start %s: %s\n", program.c_str(),
                 std::strerror(error));
  }
  return started;
}

void end_device_process(pid_t process) {
  if (process <= 0) return;
  const auto deadline = std::chrono::steady_clock::now() + kEndLimit;
  // an error is ECHILD: somebody else took it, the number may be another's by now
  for (;;) {
    if (::waitpid(process, nullptr, WNOHANG) != 0) return;
    if (std::chrono::steady_clock::now() > deadline) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ::kill(process, SIGKILL);
  ::waitpid(process, nullptr, 0);
}

}  // namespace nspjax::xrt_emulator
