#include "xrt_emulator/device/event_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <system_error>

namespace nspjax::xrt_emulator {
namespace {

std::string quoted(std::string_view text) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      out += c;
    }
  }
  return out + '"';
}

}  // namespace

Json& Json::raw(std::string_view key, std::string_view value) {
  if (!fields_.empty()) fields_ += ", ";
  fields_ += quoted(key);
  fields_ += ": ";
  fields_ += value;
  return *this;
}

Json& Json::number(std::string_view key, std::uint64_t value) {
  return raw(key, std::to_string(value));
}
Json& Json::boolean(std::string_view key, bool value) { return raw(key, value ? "true" : "false"); }
Json& Json::text(std::string_view key, std::string_view value) { return raw(key, quoted(value)); }
Json& Json::object(std::string_view key, const Json& value) { return raw(key, value.str()); }

EventLog::EventLog(const char* path, int card) : card_(card) {
  if (path == nullptr) return;
  file_ = ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (file_ < 0) throw std::system_error(errno, std::generic_category(), path);
}

EventLog::~EventLog() {
  if (file_ >= 0) ::close(file_);
}

std::string EventLog::line(std::string_view event, const Json& fields) const {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  Json head;
  head.text("event", event)
      .number("card", static_cast<std::uint64_t>(card_))
      .number("pid", static_cast<std::uint64_t>(::getpid()))
      .number("t_us", static_cast<std::uint64_t>(
                          std::chrono::duration_cast<std::chrono::microseconds>(now).count()));
  std::string text = head.str();
  const std::string rest = fields.str();
  if (rest.size() > 2) text.replace(text.size() - 1, 1, ", " + rest.substr(1));
  return text + '\n';
}

void EventLog::write(std::string_view event, const Json& fields) const {
  if (file_ < 0) return;
  const std::string text = line(event, fields);
  // a full disk must not end the card: the log then lacks lines
  [[maybe_unused]] const ssize_t written = ::write(file_, text.data(), text.size());
}

}  // namespace nspjax::xrt_emulator
