// A short measurement of a directory's drive: half a second, or a little more on a busy machine.
#pragma once

#include <string>
#include <string_view>

#include "device/profile.h"

namespace nspjax {

// Writes a scratch file past the page cache, reads it with blocks of 1 to 4 MiB, 4 to 32 at a time,
// and chooses the largest blocks within 30 % of the best, and the fewest of them at a time that are
// within 3 % of what such blocks reach. The file has no name any more when it is written, so
// nothing is left even after a crash. Throws what keeps it from measuring: no O_DIRECT, less than 1
// GiB free, no permission, a failed transfer, a machine too busy for a single read in that time.
DeviceProfile probe(const std::string& directory, std::string_view io);

}  // namespace nspjax
