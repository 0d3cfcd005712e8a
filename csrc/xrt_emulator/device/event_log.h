// What happened on the cards, one line of JSON an event, appended by all device processes to one
// file. A line is one write, so lines stay whole.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace nspjax::xrt_emulator {

// An object being written: {"a": 1, "b": "x"}.
class Json {
 public:
  Json& number(std::string_view key, std::uint64_t value);
  Json& boolean(std::string_view key, bool value);
  Json& text(std::string_view key, std::string_view value);
  Json& object(std::string_view key, const Json& value);
  std::string str() const { return "{" + fields_ + "}"; }

 private:
  Json& raw(std::string_view key, std::string_view value);

  std::string fields_;
};

class EventLog {
 public:
  // Nothing is written where path is null. Throws std::system_error where it cannot be opened.
  EventLog(const char* path, int card);
  ~EventLog();
  EventLog(const EventLog&) = delete;
  EventLog& operator=(const EventLog&) = delete;

  // Adds event, card, pid and t_us (monotonic, the same clock in all processes).
  void write(std::string_view event, const Json& fields = {}) const;
  // The line, for who cannot allocate memory when it is time.
  std::string line(std::string_view event, const Json& fields) const;
  int file() const { return file_; }

 private:
  int file_ = -1;
  int card_;
};

}  // namespace nspjax::xrt_emulator
