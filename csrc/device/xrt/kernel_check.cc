#include "device/xrt/kernel_check.h"

#include <unistd.h>
#include <xclbin.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>

#include "attention/interface.h"
#include "base/error.h"

namespace nspjax {
namespace {

constexpr std::array kArguments = {"kv", "operands", "results"};
constexpr size_t kPointerBytes = 8;
constexpr const char* kBuild = "; build it from this version's hls_kernels/";

template <class Range, class Text>
std::string listed(const Range& range, const Text& text) {
  std::string list;
  for (const auto& each : range) list += (list.empty() ? "" : ", ") + text(each);
  return list.empty() ? "none" : list;
}

// XRT reads beyond the end of a file that was cut.
void check_size(const std::string& path) {
  axlf top{};
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(&top), sizeof(top));
  const bool begins = file.good() && std::memcmp(top.m_magic, "xclbin2", sizeof(top.m_magic)) == 0;
  const uint64_t size = std::filesystem::file_size(path);
  if (!begins || size < top.m_header.m_length) {  // a signature may follow
    fail(ErrorKind::kAccelerator, path, " is no sound xclbin: it has ", size, " bytes, ",
         begins ? concat("its header says ", top.m_header.m_length) : "and no header of one",
         kBuild);
  }
}

void check_kernel(const xrt::xclbin& xclbin, const std::string& path) {
  const auto kernels = xclbin.get_kernels();
  const auto ours =
      std::ranges::find(kernels, kernel::kName, [](const auto& k) { return k.get_name(); });
  if (ours == kernels.end()) {
    fail(ErrorKind::kAccelerator, path, " has no kernel ", kernel::kName,
         ", but: ", listed(kernels, [](const auto& k) { return k.get_name(); }), kBuild);
  }
  const auto arguments = ours->get_args();
  const bool same =
      std::ranges::equal(arguments, kArguments, [](const auto& got, const char* want) {
        return got.get_name() == want && got.get_size() == kPointerBytes;
      });
  if (!same) {
    fail(ErrorKind::kAccelerator, "the kernel in ", path, " has the arguments ",
         listed(arguments,
                [](const auto& a) { return concat(a.get_name(), " (", a.get_size(), " bytes)"); }),
         "; they should be ", listed(kArguments, [](const char* a) { return std::string(a); }),
         " (", kPointerBytes, " bytes each)", kBuild);
  }
  if (ours->get_cus().empty()) {
    fail(ErrorKind::kAccelerator, path, " has no compute unit of ", kernel::kName, kBuild);
  }
}

}  // namespace

xrt::xclbin read_xclbin(const std::string& path) {
  if (::access(path.c_str(), R_OK) != 0) {
    fail(ErrorKind::kAccelerator, "the xclbin ", path, " cannot be read: ", errno_text(errno));
  }
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path, unknown)) {  // a FIFO would be waited for
    fail(ErrorKind::kAccelerator, "the xclbin ", path, " is no file");
  }
  check_size(path);
  try {
    xrt::xclbin xclbin(path);
    check_kernel(xclbin, path);
    return xclbin;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail(ErrorKind::kAccelerator, path, " is no sound xclbin: ", error.what(), kBuild);
  }
}

}  // namespace nspjax
