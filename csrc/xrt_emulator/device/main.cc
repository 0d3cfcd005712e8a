// The process behind one emulated card: nspjax-xrt-card CARD RUN_DIRECTORY, with its socket at
// descriptor kSocket. The shim's wrapper starts it. It ends when the host closes the card or is
// gone.
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <optional>
#include <string>
#include <vector>

#include "xrt_emulator/device/card.h"

namespace nspjax::xrt_emulator {
namespace {

// What a signal handler may use: a file, and a line that is ready.
struct LastWords {
  int file = -1;
  std::string crash;
  std::string fault;
  bool expected = false;
};
LastWords last_words;

extern "C" void on_crash(int) {
  const std::string& line = last_words.expected ? last_words.fault : last_words.crash;
  if (last_words.file >= 0) {
    [[maybe_unused]] const ssize_t written = ::write(last_words.file, line.data(), line.size());
  }
  ::raise(SIGKILL);
}

void watch_crashes(const EventLog& log) {
  last_words.file = log.file();
  last_words.crash = log.line("exit", Json().text("reason", "crash"));
  last_words.fault = log.line("exit", Json().text("reason", "fault die-in-run"));
  struct sigaction action{};
  action.sa_handler = on_crash;
  for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGABRT}) {
    ::sigaction(signal, &action, nullptr);
  }
}

bool receive(void* to, std::size_t n_bytes) {
  for (auto* at = static_cast<std::uint8_t*>(to); n_bytes > 0;) {
    const ssize_t n = ::recv(kSocket, at, n_bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    n_bytes -= static_cast<std::size_t>(n);
  }
  return true;
}

bool send(const void* from, std::size_t n_bytes) {
  for (auto* at = static_cast<const std::uint8_t*>(from); n_bytes > 0;) {
    const ssize_t n = ::send(kSocket, at, n_bytes, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    at += n;
    n_bytes -= static_cast<std::size_t>(n);
  }
  return true;
}

const char* serve(Card& card) {
  std::vector<char> body;
  while (!card.closed()) {
    std::array<std::uint8_t, RequestHeader::kBytes> head;
    if (!receive(head.data(), head.size())) return "host gone";
    const RequestHeader request = RequestHeader::read(head.data());
    body.resize(request.body_bytes);
    if (!receive(body.data(), body.size())) return "host gone";
    const std::string reply = card.answer(request.api, {body.data(), body.size()});
    std::array<std::uint8_t, ReplyHeader::kBytes> reply_head;
    ReplyHeader{reply.size()}.write(reply_head.data());
    if (!send(reply_head.data(), reply_head.size()) || !send(reply.data(), reply.size())) {
      return "host gone";
    }
  }
  return "closed";
}

// Neither the host's pipes nor its files shall be kept open by a card.
void close_inherited() {
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  ::syscall(SYS_close_range, kSocket + 1, ~0u, 0);
}

int emulate(int card_number) {
  const auto setting = [](const char* name) { return std::getenv(name); };
  const EventLog log(setting("NSPJAX_XRT_EMULATOR_LOG"), card_number);
  const char* const faults_text = setting("NSPJAX_XRT_EMULATOR_FAULTS");
  Faults faults(faults_text ? faults_text : "", card_number);
  std::optional<Card> card;
  card.emplace(log, faults, setting("NSPJAX_XRT_EMULATOR_STRICT_SYNC") != nullptr, [&card] {
    last_words.expected = true;
    card->memory().protect();
  });
  watch_crashes(log);
  log.write("start");
  const char* const reason = serve(*card);
  log.write("exit", Json().text("reason", reason));
  ::_exit(0);  // a kernel that never ends is not waited for
}

}  // namespace
}  // namespace nspjax::xrt_emulator

int main(int argc, char** argv) {
  try {
    if (argc != 3) throw std::invalid_argument("this process is started by the emulator's shim");
    nspjax::xrt_emulator::close_inherited();
    return nspjax::xrt_emulator::emulate(std::atoi(argv[1]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nspjax emulated card: %s\n", error.what());
    return 1;
  }
}
