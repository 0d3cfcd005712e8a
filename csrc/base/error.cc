#include "base/error.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

namespace nspjax {

std::string_view kind_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kStorePath:
      return "StorePath";
    case ErrorKind::kStoreBusy:
      return "StoreBusy";
    case ErrorKind::kStoreFull:
      return "StoreFull";
    case ErrorKind::kStoreDamaged:
      return "StoreDamaged";
    case ErrorKind::kStorageIO:
      return "StorageIO";
    case ErrorKind::kStaleHandle:
      return "StaleHandle";
    case ErrorKind::kStoreClosed:
      return "StoreClosed";
    case ErrorKind::kAccelerator:
      return "Accelerator";
    case ErrorKind::kInvalidArgument:
      return "InvalidArgument";
  }
  return "StorageIO";
}

namespace {

// How many bytes of valid UTF-8 a text begins with for its first character; 0: it is none. As in
// table 3-7 of the Unicode standard: no surrogates, nothing longer than needed.
size_t character_bytes(std::string_view text) {
  const auto byte = [&](size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u;
  };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const size_t n = first >= 0xc2 && first <= 0xdf   ? 2
                   : first >= 0xe0 && first <= 0xef ? 3
                   : first >= 0xf0 && first <= 0xf4 ? 4
                                                    : 0;
  const unsigned least = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
  const unsigned most = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
  for (size_t i = 1; i < n; ++i) {
    const bool second = i == 1;
    if (byte(i) < (second ? least : 0x80) || byte(i) > (second ? most : 0xbf)) return 0;
  }
  return n;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string result;
  while (!text.empty()) {
    const size_t n = character_bytes(text);
    if (n > 0) {
      result += text.substr(0, n);
    } else {
      std::array<char, 8> escaped{};
      std::snprintf(escaped.data(), escaped.size(), "\\x%02x",
                    static_cast<unsigned>(static_cast<unsigned char>(text[0])));
      result += escaped.data();
    }
    text.remove_prefix(std::max<size_t>(1, n));
  }
  return result;
}

std::string errno_text(int error) {
  return concat(std::generic_category().message(error), " (errno ", error, ")");
}

ErrorKind kind_of_errno(int error) {
  return error == ENOSPC || error == EDQUOT ? ErrorKind::kStoreFull : ErrorKind::kStorageIO;
}

std::string bytes_text(long long bytes) {
  constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024.0 && unit + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit;
  }
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.1f %s", value, kUnits[unit]);
  return text.data();
}

}  // namespace nspjax
