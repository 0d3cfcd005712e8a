#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "xrt_emulator/shim/connections.h"
#include "xrt_emulator/shim/replaced_calls.h"

namespace nspjax::xrt_emulator {
namespace {

CodeRange message_memory;  // CpuemShim::alloc_void
CodeRange program_reset;   // CpuemShim::resetProgram

// ---- starting a device process: the child is ours, the socket has no name
// --------------------------

// The shim looks for its socket in /tmp/$USER: here that is /tmp/. and nothing is made or left.
char* get_environment(const char* name) {
  static char here[] = ".";
  if (std::strcmp(name, "USER") == 0) return here;
  if (std::strcmp(name, "EMULATION_SOCKETID") == 0) return this_thread().card_name.data();
  return std::getenv(name);
}

int set_environment(const char* name, const char* value, int overwrite) {
  if (std::strcmp(name, "AIESIM_SOCKETID") == 0) return 0;
  if (std::strcmp(name, "EMULATION_SOCKETID") != 0) return ::setenv(name, value, overwrite);
  this_thread().card_name = value;
  return 0;
}

// "device3_0_4711" -> "3"
std::string card_number(const std::string& card_name) {
  constexpr std::size_t kPrefix = sizeof("device") - 1;
  return card_name.substr(kPrefix, card_name.find('_') - kPrefix);
}

pid_t fork_device_process() {
  try {
    this_thread().started = start_device_process(card_number(this_thread().card_name));
    return ::getpid();  // any number that says: you are the parent
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nspjax emulated card: %s\n", error.what());
    return -1;
  }
}

int refuse_connect(int, const sockaddr*, socklen_t) {
  errno = ECONNREFUSED;
  return -1;
}
int accept_bind(int, const sockaddr*, socklen_t) { return 0; }
int accept_listen(int, int) { return 0; }
int accept_select(int, fd_set*, fd_set*, fd_set*, timeval*) { return 1; }
int accept_unlink(const char*) { return 0; }

int accept_device_process(int, sockaddr*, socklen_t*) {
  const auto started = std::exchange(this_thread().started, std::nullopt);
  if (!started) return -1;
  add_connection(started->socket, started->process);
  return started->socket;
}

// ---- talking to it
// -----------------------------------------------------------------------------------

ssize_t write_request(int file, const void* bytes, std::size_t n_bytes) {
  const std::shared_ptr<Connection> connection = connection_at(file);
  if (!connection) return ::write(file, bytes, n_bytes);
  ThreadState& thread = this_thread();
  thread.idle_polls = 0;
  thread.last = connection;
  connection->write({static_cast<const char*>(bytes), n_bytes}, thread.allocating);
  return static_cast<ssize_t>(n_bytes);
}

ssize_t read_reply(int file, void* bytes, std::size_t n_bytes) {
  const std::shared_ptr<Connection> connection = connection_at(file);
  if (!connection) return ::read(file, bytes, n_bytes);
  connection->read(static_cast<char*>(bytes), n_bytes);
  return static_cast<ssize_t>(n_bytes);
}

int close_file(int file) {
  drop_connection(file);
  return ::close(file);
}

// The shim waits for whatever child ends: it must take none of the host's.
pid_t wait_for_device_process(pid_t, int* status, int) {
  const std::shared_ptr<Connection> connection = this_thread().last;
  if (connection) end_device_process(connection->process());
  if (status) *status = 0;
  return ::getpid();
}

// Its scheduler polls every 10 us for ever. Where no run is going on it may sleep longer.
int pause_scheduler(useconds_t us) {
  constexpr int kShortPolls = 200;
  constexpr useconds_t kLongPoll_us = 500;
  return ::usleep(++this_thread().idle_polls > kShortPolls ? kLongPoll_us : us);
}

// ---- what must not happen to a host
// ------------------------------------------------------------------

// Its handlers kill the process group when a device process dies.
int ignore_sigaction(int, const struct sigaction*, struct sigaction*) { return 0; }
int ignore_kill(pid_t, int) { return 0; }
// Five seconds at every close, "so that gdb releases the process".
unsigned ignore_sleep(unsigned) { return 0; }
// chmod and cp of what nobody reads.
int ignore_system(const char*) { return 0; }
// At the close of one card, though others are open.
void ignore_protobuf_shutdown() {}

void exit_loudly(int status) {
  std::fprintf(stderr, "nspjax: XRT's emulation shim ends this process: exit(%d)\n", status);
  std::exit(status);
}

// ---- memory
// --------------------------------------------------------------------------------------------

// CpuemShim::alloc_void of Debian's build loses what realloc returns. Messages are of 8 MiB at
// most; pages of this that are not touched cost nothing.
constexpr std::size_t kMessageBytes = std::size_t{64} << 20;

void* allocate(std::size_t n_bytes) {
  const bool message = message_memory.contains(__builtin_return_address(0));
  return std::malloc(message && n_bytes < kMessageBytes ? kMessageBytes : n_bytes);
}

void* reallocate(void* memory, std::size_t n_bytes) {
  const bool message = message_memory.contains(__builtin_return_address(0));
  return message && n_bytes <= kMessageBytes ? memory : std::realloc(memory, n_bytes);
}

// Loading an xclbin unmaps the buffers of all cards.
int unmap(void* memory, std::size_t n_bytes) {
  return program_reset.contains(__builtin_return_address(0)) ? 0 : ::munmap(memory, n_bytes);
}

// Host copies of buffers come from here and are unmapped, not freed.
int allocate_aligned(void** memory, std::size_t alignment, std::size_t n_bytes) {
  if (alignment != static_cast<std::size_t>(::sysconf(_SC_PAGESIZE))) {
    return ::posix_memalign(memory, alignment, n_bytes);
  }
  constexpr int kAccess = PROT_READ | PROT_WRITE;
  void* const mapped = ::mmap(nullptr, n_bytes, kAccess, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return ENOMEM;
  *memory = mapped;
  return 0;
}

template <typename Function>
void* address(Function* function) {
  return reinterpret_cast<void*>(function);
}

}  // namespace

void replace_imports(const LoadedLibrary& shim) {
  message_memory = shim.range("_ZN12xclcpuemhal29CpuemShim10alloc_voidEm");
  program_reset = shim.range("_ZN12xclcpuemhal29CpuemShim12resetProgramEb");
  shim.replace_imports({
      {"getenv", address(get_environment)},
      {"setenv", address(set_environment)},
      {"fork", address(fork_device_process)},
      {"connect", address(refuse_connect)},
      {"bind", address(accept_bind)},
      {"listen", address(accept_listen)},
      {"select", address(accept_select)},
      {"unlink", address(accept_unlink)},
      {"accept", address(accept_device_process)},
      {"write", address(write_request)},
      {"read", address(read_reply)},
      {"close", address(close_file)},
      {"waitpid", address(wait_for_device_process)},
      {"usleep", address(pause_scheduler)},
      {"sigaction", address(ignore_sigaction)},
      {"kill", address(ignore_kill)},
      {"sleep", address(ignore_sleep)},
      {"system", address(ignore_system)},
      {"_ZN6google8protobuf23ShutdownProtobufLibraryEv", address(ignore_protobuf_shutdown)},
      {"exit", address(exit_loudly)},
      {"malloc", address(allocate)},
      {"realloc", address(reallocate)},
      {"munmap", address(unmap)},
      {"posix_memalign", address(allocate_aligned)},
  });
}

}  // namespace nspjax::xrt_emulator
