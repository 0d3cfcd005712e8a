// How a directory's drive is best read, kept beside the store so that only the first open measures.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nspjax {

struct DeviceProfile {
  int64_t block_bytes = 2 << 20;  // the smallest reads, and the fewest at a time, that are as fast
  int depth = 16;                 //   as the drive goes
  std::optional<double> read_gb_per_s = {};  // nothing: not known
  std::optional<double> write_gb_per_s = {};
  std::string source = "default";  // or "measured", or "kept": measured by an earlier open
  std::string note = {};           // why it is the default, or why it was not kept
};

// The kept profile, or one that is measured and kept. io: as make_io_queue() has it. Throws
// InvalidArgument for an unknown io; a directory that cannot be measured gets the default.
DeviceProfile profile_of(const std::string& directory, std::string_view io);
// Measures whatever is kept.
DeviceProfile measure_profile(const std::string& directory, std::string_view io);
// Nothing where there is none of this directory's file system and this io, it is damaged, or of
// another user.
std::optional<DeviceProfile> kept_profile(const std::string& directory, std::string_view io);

}  // namespace nspjax
