// The host's end of the socket to one device process. A process that died, or does not answer, is
// stood in for: neither ends nor hangs the host.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "xrt_emulator/protocol.h"

namespace nspjax::xrt_emulator {

class Connection {
 public:
  // The socket stays its owner's; -1: there is no process from the start.
  Connection(int socket, pid_t process);

  // What the shim writes: a header in one piece, then its body in one. `kind` is that of the buffer
  // which is being allocated.
  void write(std::string_view bytes, BufferKind kind);
  // Bytes of the reply.
  void read(char* to, std::size_t n_bytes);

  // Gives the card up: its process is told to end, and stood in for from now on.
  void abandon();
  // Runs that were started and not yet seen done.
  int runs() const { return runs_; }
  pid_t process() const { return process_; }

 private:
  void send_request(std::string_view body, BufferKind kind);
  void receive_reply();
  bool send_all(std::string_view bytes);
  bool receive_all(char* to, std::size_t n_bytes);

  const int socket_;
  const pid_t process_;
  std::atomic<bool> lost_;
  std::atomic<int> runs_ = 0;
  std::optional<RequestHeader> header_;  // whose body is still to come
  Api asked_{};
  std::string reply_;  // header and body
  std::size_t reply_read_ = 0;
};

}  // namespace nspjax::xrt_emulator
