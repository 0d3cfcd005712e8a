#include "xrt_emulator/shim/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "xrt_emulator/message.h"
#include "xrt_emulator/shim/stand_in.h"

namespace nspjax::xrt_emulator {
namespace {

// Runs are asked for, not waited for, so every reply comes soon. A host that counts on hearing of a
// lost card within 10 s does.
constexpr std::chrono::seconds kReplyLimit{8};

std::uint32_t first_word(std::string_view bytes) {
  std::uint32_t word = 0;
  std::memcpy(&word, bytes.data(), std::min(bytes.size(), sizeof word));
  return word;
}

}  // namespace

Connection::Connection(int socket, pid_t process)
    : socket_(socket), process_(process), lost_(process < 0) {}

void Connection::abandon() {
  lost_ = true;
  ::shutdown(socket_, SHUT_RDWR);
}

void Connection::write(std::string_view bytes, BufferKind kind) {
  if (!header_ && bytes.size() == RequestHeader::kBytes) {
    header_ = RequestHeader::read(reinterpret_cast<const std::uint8_t*>(bytes.data()));
    return;
  }
  if (header_ && bytes.size() == header_->body_bytes) {
    asked_ = header_->api;
    send_request(bytes, kind);
  } else {
    abandon();  // not the protocol that we know
  }
  header_.reset();
  reply_.clear();
  reply_read_ = 0;
}

void Connection::send_request(std::string_view body, BufferKind kind) {
  std::string with_kind;
  if (asked_ == Api::kAllocate) {
    const std::string field = Body().number(kKindField, static_cast<std::uint32_t>(kind)).take();
    with_kind.append(body).append(field);
    body = with_kind;
  }
  if (asked_ == Api::kWriteControl && (first_word(Message(body).bytes(4)) & kStart)) ++runs_;
  std::array<std::uint8_t, RequestHeader::kBytes> head;
  RequestHeader{body.size(), asked_}.write(head.data());
  const bool sent = !lost_ && send_all({reinterpret_cast<const char*>(head.data()), head.size()}) &&
                    send_all(body);
  if (!sent) lost_ = true;
}

void Connection::read(char* to, std::size_t n_bytes) {
  if (reply_.empty()) receive_reply();
  const std::size_t n = std::min(n_bytes, reply_.size() - reply_read_);
  std::memcpy(to, reply_.data() + reply_read_, n);
  std::memset(to + n, 0, n_bytes - n);
  reply_read_ += n;
}

// Whole, before the shim gets a byte of it: a process may die in the middle of a reply.
void Connection::receive_reply() {
  constexpr std::size_t kHead = ReplyHeader::kBytes;
  reply_.resize(kHead);
  bool received = !lost_ && receive_all(reply_.data(), kHead);
  if (received) {
    const auto* head = reinterpret_cast<const std::uint8_t*>(reply_.data());
    reply_.resize(kHead + ReplyHeader::read(head).body_bytes);
    received = receive_all(reply_.data() + kHead, reply_.size() - kHead);
  }
  if (!received) {
    if (!lost_) abandon();
    const std::string body = stand_in_reply(asked_);
    reply_.resize(kHead);
    ReplyHeader{body.size()}.write(reinterpret_cast<std::uint8_t*>(reply_.data()));
    reply_ += body;
  }
  if (asked_ != Api::kReadControl || runs_ == 0) return;
  const Message reply(std::string_view(reply_).substr(kHead));
  if (first_word(reply.bytes(2)) & kDone) --runs_;
}

bool Connection::send_all(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

bool Connection::receive_all(char* to, std::size_t n_bytes) {
  const auto deadline = std::chrono::steady_clock::now() + kReplyLimit;
  while (n_bytes > 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd readable{.fd = socket_, .events = POLLIN, .revents = 0};
    const int ready = ::poll(&readable, 1, static_cast<int>(std::max<long>(left.count(), 0)));
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return false;
    const ssize_t n = ::recv(socket_, to, n_bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    to += n;
    n_bytes -= static_cast<std::size_t>(n);
  }
  return true;
}

}  // namespace nspjax::xrt_emulator
