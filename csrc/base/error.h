// Every error that leaves the engine: a kind, which Python turns into a class, and a text that says
// what was wrong, what was got and what to do.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace nspjax {

enum class ErrorKind {
  kStorePath,
  kStoreBusy,
  kStoreFull,
  kStoreDamaged,
  kStorageIO,
  kStaleHandle,
  kStoreClosed,
  kAccelerator,
  kInvalidArgument,
};

// "StorePath" etc.: the Python class is nspjax.errors.<name>Error.
std::string_view kind_name(ErrorKind kind);

// The text as valid UTF-8, with "\xe9" for a byte that is none: of a path, which may have any
// bytes.
std::string printable(std::string_view text);

// Its text is valid UTF-8, so that it arrives whole in Python, also by way of XLA.
class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message)
      : std::runtime_error(printable(message)), kind_(kind) {}
  ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

template <typename... Parts>
[[noreturn]] void fail(ErrorKind kind, const Parts&... parts) {
  throw Error(kind, concat(parts...));
}

// "No space left on device (errno 28)"
std::string errno_text(int error);

// ENOSPC and EDQUOT mean that a device is full, everything else that it failed.
ErrorKind kind_of_errno(int error);

// "12.5 GiB"
std::string bytes_text(long long bytes);

}  // namespace nspjax
