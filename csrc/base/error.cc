#include "base/error.h"

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
